//! The layer that ends streams.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_core::{BoxError, Fault, grpc};

use super::{
    FarewellBody, Policy,
    end_timer::{Due, EndTimer},
    unanswered,
};
use crate::{
    Drain,
    refusal::{self, UnreadUpload},
    shared::Shared,
};

/// Ends streams when the drain says so, with a farewell that their clients can read, and answers at the deadline for
/// handlers that have not: a 503 with `Retry-After`, or `grpc-status: 14`.
///
/// From [`Drain::farewell`]. It counts nothing itself: without a [`DrainLayer`](crate::DrainLayer) and not under
/// [`Drain::serve`] nothing is in flight as far as the drain can see, so it is dead as soon as it closes and streams get
/// no farewell. Put it inside of the error writer, if there is one, and inside of a compression; one a route
/// with another [`policy`](Self::policy) overrules one further out.
///
/// | stream | its farewell |
/// |---|---|
/// | `text/event-stream` | `event: drain` with `data:` and `retry:`, no `id:` |
/// | JSON lines, JSON text sequences | one object, `{"drain":{..}}` |
/// | gRPC over HTTP/2, gRPC-Web | trailers with `grpc-status: 14` (UNAVAILABLE), between two messages |
/// | anything else, gRPC over HTTP/1, half a gRPC message, a declared length, 206, a content coding | the body fails with a [`StreamError`](tower_stream_core::StreamError): an error writer outside tells the client, or else the truncation does |
///
/// Only whole events and lines are let through, so that a farewell never follows half of one; a record over 64 KiB is
/// let through open, and if the deadline finds it so, the body fails. Whatever the ending, the
/// [`Fault`] of the request is recorded as [`FaultKind::Drain`](tower_stream_core::FaultKind::Drain) before the body
/// inside is dropped.
#[derive(Clone)]
pub struct FarewellLayer {
    shared: Option<Arc<Shared>>,
    policy: Policy,
}

impl FarewellLayer {
    pub(crate) fn new(drain: &Drain, policy: Policy) -> Self {
        Self {
            shared: Some(Arc::clone(&drain.shared)),
            policy,
        }
    }

    /// When streams are ended. [`Policy::RunToDeadline`].
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// A layer of the same type that does nothing.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            shared: None,
            policy: Policy::RunToDeadline,
        }
    }
}

impl<S> Layer<S> for FarewellLayer {
    type Service = Farewell<S>;

    fn layer(&self, inner: S) -> Farewell<S> {
        Farewell {
            inner,
            layer: self.clone(),
        }
    }
}

impl fmt::Debug for FarewellLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FarewellLayer")
            .field("drain", &self.shared)
            .field("policy", &self.policy)
            .finish()
    }
}

/// Ends streams; see [`FarewellLayer`].
#[derive(Clone, Debug)]
pub struct Farewell<S> {
    inner: S,
    layer: FarewellLayer,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Farewell<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<FarewellBody<ResBody>>;
    type Error = S::Error;
    type Future = FarewellFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> FarewellFuture<S::Future> {
        let ending = self.layer.shared.as_ref().map(|shared| Ending {
            shared: Arc::clone(shared),
            policy: self.layer.policy,
            grpc_type: grpc::content_type(request.headers()).cloned().map(Box::new),
            timer: None,
            fault: Fault::of(request.extensions_mut()),
            has_upload: refusal::announces_upload(&request),
            method: request.method().clone(),
            version: request.version(),
        });
        FarewellFuture {
            future: Some(self.inner.call(request)),
            ending,
        }
    }
}

/// What ends a response, once it is there.
pub(super) struct Ending {
    pub(super) shared: Arc<Shared>,
    pub(super) policy: Policy,
    pub(super) fault: Fault,
    grpc_type: Option<Box<HeaderValue>>,
    /// Made when the handler first has to wait.
    timer: Option<EndTimer>,
    /// The client may still be sending when the drain answers.
    has_upload: bool,
    pub(super) method: Method,
    pub(super) version: Version,
}

/// In response extensions: a layer of this drain inside ends the stream.
#[derive(Clone)]
struct Ended(Arc<Shared>);

impl Ending {
    /// The handler has no answer yet. True when it is too late for one.
    fn waits(&mut self, cx: &mut Context<'_>) -> bool {
        let timer = self
            .timer
            .get_or_insert_with(|| EndTimer::new(Arc::clone(&self.shared), None));
        timer.wait(cx);
        timer.due() == Due::Anywhere
    }

    /// The answer in place of the handler's.
    #[cold]
    fn unanswered<B: Body>(mut self) -> Response<FarewellBody<B>> {
        let retry = self.shared.settings.retry_after();
        self.shared.farewell(&self.fault, retry);
        let grpc_type = self.grpc_type.map(|content_type| *content_type);
        let mut response = unanswered::answer(&self.method, grpc_type, retry);
        self.fault.join(response.extensions_mut());
        if self.has_upload {
            response.extensions_mut().insert(UnreadUpload);
        }
        response.extensions_mut().insert(Ended(self.shared));
        response.map(FarewellBody::answer)
    }

    fn apply<B>(mut self, response: Response<B>) -> Response<FarewellBody<B>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = response.into_parts();
        let known = parts.extensions.get::<Ended>();
        if known.is_some_and(|known| Arc::ptr_eq(&known.0, &self.shared)) {
            return Response::from_parts(parts, FarewellBody::plain(body));
        }
        self.fault.join(&mut parts.extensions);
        if let Some(policy) = parts.extensions.get::<Policy>() {
            self.policy = *policy;
        }
        parts.extensions.insert(Ended(Arc::clone(&self.shared)));
        let body = FarewellBody::new(body, self, parts.status, &parts.headers);
        Response::from_parts(parts, body)
    }
}

pin_project! {
    /// Resolves to the response, whose body may be ended by the drain.
    pub struct FarewellFuture<F> {
        // `None` once it is done, or the drain has answered in its place
        #[pin]
        future: Option<F>,
        ending: Option<Ending>,
    }
}

impl<F, B, E> Future for FarewellFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<FarewellBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            // polled after it was ready, which no executor does
            return Poll::Pending;
        };
        let Poll::Ready(response) = future.poll(cx) else {
            let late = this.ending.take_if(|ending| ending.waits(cx));
            let Some(ending) = late else {
                return Poll::Pending;
            };
            let response = ending.unanswered();
            // after the fault is recorded: what the handler drops may look at it
            this.future.set(None);
            return Poll::Ready(Ok(response));
        };
        let response = response?;
        Poll::Ready(Ok(match this.ending.take() {
            Some(ending) => ending.apply(response),
            None => response.map(FarewellBody::plain),
        }))
    }
}

impl<F> fmt::Debug for FarewellFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FarewellFuture").finish_non_exhaustive()
    }
}
