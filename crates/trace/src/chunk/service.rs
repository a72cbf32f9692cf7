use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Extensions, Method, Request, Response};
use http_body::Body;
use opentelemetry::{KeyValue, StringValue, trace::TraceContextExt};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;
use tower_stream_core::{BoxError, Claim, Exchange, Observation, RequestId};

use super::{
    ResponseBody,
    layer::{ChunkAttributes, Config, shared},
    observer::{ChunkObserver, Numbers},
};
use crate::{attribute, parent};

/// The service of [`ChunkSpanLayer`](super::ChunkSpanLayer).
#[derive(Clone, Debug)]
pub struct ChunkSpan<S> {
    inner: S,
    config: Option<Arc<Config>>,
}

impl<S> ChunkSpan<S> {
    pub(super) fn new(inner: S, config: Option<Arc<Config>>) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for ChunkSpan<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let mut call = None;
        if let Some(config) = &self.config
            && let Some(parent) = Parent::of_call(request.extensions())
        {
            let mut attributes = Vec::new();
            if let Some(of) = &config.attributes {
                let (parts, body) = request.into_parts();
                attributes = of(&parts);
                request = Request::from_parts(parts, body);
            }
            let begun = Call::begin(config, parent, &mut request, attributes);
            call = Some(Box::new(begun));
        }
        ResponseFuture {
            inner: self.inner.call(request),
            call,
        }
    }
}

pin_project! {
    /// The future of [`ChunkSpan`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        // boxed, for most requests are not sampled
        call: Option<Box<Call>>,
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(match this.call.take() {
            Some(call) => call.into_response(response),
            None => response.map(ResponseBody::off),
        }))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// A response whose chunks have spans already, by a layer inside.
#[derive(Clone, Copy)]
struct HasChunkSpans;

/// What is known at the call of the span that chunk spans will belong to.
enum Parent {
    Sampled(opentelemetry::Context),
    /// it may be entered only for the polls of the future
    Unknown,
}

impl Parent {
    /// `None` when it is known and not sampled.
    fn of_call(request: &Extensions) -> Option<Self> {
        if parent::is_known_unsampled(request) {
            return None;
        }
        let current = parent::current();
        if !parent::has_span(&current) {
            Some(Self::Unknown)
        } else if parent::is_sampled(&current) {
            Some(Self::Sampled(current))
        } else {
            None
        }
    }
}

/// What of a request that may be sampled is needed when its head is there.
struct Call {
    config: Arc<Config>,
    parent: Parent,
    called: Option<Instant>,
    method: Method,
    exchange: Exchange,
    request_id: Option<RequestId>,
    attributes: Vec<KeyValue>,
}

impl Call {
    fn begin<B>(
        config: &Arc<Config>,
        parent: Parent,
        request: &mut Request<B>,
        attributes: Vec<KeyValue>,
    ) -> Self {
        let exchange = Exchange::of(request.extensions_mut());
        Self {
            config: Arc::clone(config),
            parent,
            called: config.genai.then(Instant::now),
            method: request.method().clone(),
            request_id: exchange.request_id().cloned(),
            exchange,
            attributes,
        }
    }

    fn into_response<B>(mut self, mut response: Response<B>) -> Response<ResponseBody<B>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let parent = match self.parent {
            Parent::Sampled(parent) => parent,
            Parent::Unknown => parent::current(),
        };
        if !parent::is_sampled(&parent) || response.extensions().get::<HasChunkSpans>().is_some() {
            return response.map(ResponseBody::off);
        }
        let extensions = response.extensions_mut();
        extensions.insert(HasChunkSpans);
        self.exchange.join(extensions);
        let numbers = self.exchange.request_id().map(|_| Numbers {
            draws: self.exchange.claim(Claim::ChunkNumbers),
            sequence: self.exchange.sequence(),
        });
        let request_id = self.request_id.or(self.exchange.request_id().cloned());
        let common = common(&parent, request_id, self.attributes, extensions);
        let observer = ChunkObserver::new(self.config, parent, self.called, common, numbers);
        Observation::new(observer, self.exchange)
            .into_response(&self.method, response)
            .map(|body| ResponseBody::on(Box::pin(body)))
    }
}

/// The attributes that all chunk spans of one stream share.
fn common(
    parent: &opentelemetry::Context,
    request_id: Option<RequestId>,
    attributes: Vec<KeyValue>,
    response: &Extensions,
) -> Vec<KeyValue> {
    let stream_id = match request_id {
        Some(id) => StringValue::from(id.as_str().to_owned()),
        None => parent.span().span_context().trace_id().to_string().into(),
    };
    let from_handler = response.get::<ChunkAttributes>().cloned();
    std::iter::once(KeyValue::new(attribute::STREAM_ID, stream_id))
        .chain(attributes)
        .chain(from_handler.into_iter().flat_map(|attributes| attributes.0))
        .map(shared)
        .collect()
}
