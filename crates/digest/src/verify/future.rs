//! Deciding before the head what can be decided there.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, StatusCode, Version, response::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_stream_body::{BoxError, Delivery, Fault, Observation, Promise};

use super::{
    Checker, OnBadPromise, Request, Unverifiable, VerifyBody, bad_promise, instead_of,
    layer::Config, problem,
};
use crate::{
    Algorithm, fields,
    replay::{Ahead, Replay},
};

pin_project! {
    /// The future of [`VerifyDigestService`](super::VerifyDigestService).
    pub struct VerifyDigestFuture<F, B, D: Algorithm> {
        #[pin]
        inner: F,
        // `None`: the layer is off, or the head is there
        call: Option<Call>,
        held: Option<Box<Held<B, D>>>,
    }
}

impl<F, B, D: Algorithm> VerifyDigestFuture<F, B, D> {
    pub(super) fn new(inner: F, call: Option<Call>) -> Self {
        Self {
            inner,
            call,
            held: None,
        }
    }
}

impl<F, B, D: Algorithm> fmt::Debug for VerifyDigestFuture<F, B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyDigestFuture").finish_non_exhaustive()
    }
}

impl<F, B, E, D> Future for VerifyDigestFuture<F, B, D>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    D: Algorithm,
{
    type Output = Result<Response<VerifyBody<B, D>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.held.is_none() {
            let response = ready!(this.inner.poll(cx))?;
            let Some(call) = this.call.take() else {
                return Poll::Ready(Ok(response.map(VerifyBody::untouched)));
            };
            match call.head(response) {
                Step::Done(response) => return Poll::Ready(Ok(response)),
                Step::Check(held) => *this.held = Some(held),
            }
        }
        if let Some(held) = this.held {
            ready!(held.look_ahead(cx));
        }
        let held = this.held.take().expect("held a line ago");
        Poll::Ready(Ok(held.release()))
    }
}

/// What a response must know of its request.
pub(super) struct Call {
    config: Arc<Config>,
    request: Request,
    version: Version,
    fault: Fault,
}

enum Step<B, D: Algorithm> {
    Done(Response<VerifyBody<B, D>>),
    Check(Box<Held<B, D>>),
}

impl Call {
    pub(super) fn new<B>(config: Arc<Config>, request: &mut http::Request<B>) -> Self {
        Self {
            config,
            request: Request::of(request),
            version: request.version(),
            fault: Fault::of(request.extensions_mut()),
        }
    }

    fn head<B, D>(mut self, response: Response<B>) -> Step<B, D>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
        D: Algorithm,
    {
        let (mut head, body) = response.into_parts();
        self.fault.join(&mut head.extensions);
        let delivery = Delivery::new(&self.request.method, head.status, &head.headers, &body);
        let promise = fields::promise::<D>(&head.headers);
        let trailers =
            self.config.expect_trailers || fields::announces_digest_trailer(&head.headers);
        if delivery.is_bodiless() || (promise == Ok(None) && !trailers) {
            return Step::Done(Response::from_parts(head, VerifyBody::untouched(body)));
        }

        let declared = delivery.declared_length();
        let expected = promise.unwrap_or_default();
        let id = self.request.id.clone();
        let mut checker =
            Checker::<D>::new(expected, declared, self.request, Arc::clone(&self.config));
        head.extensions.insert(checker.later());
        if let Err(bad) = promise {
            checker.give_up(bad.into());
            match self.config.on_bad_promise {
                OnBadPromise::Ignore => {}
                OnBadPromise::Warn => {
                    tracing::warn!("the digest in the response head is {}", bad.as_str());
                }
                OnBadPromise::Refuse => {
                    // its drop reports the outcome
                    drop(Observation::new(checker, self.fault));
                    let answer = bad_promise(StatusCode::BAD_GATEWAY, bad, id.as_ref());
                    let (head, document) = instead_of(head, answer);
                    return Step::Done(Response::from_parts(head, VerifyBody::answer(document)));
                }
            }
        }
        if let Some(digest) = expected {
            head.extensions
                .insert(Promise::new(D::KEY, digest.as_bytes(), &head.headers));
        }
        Step::Check(Box::new(Held {
            body: Replay::new(body),
            observation: Observation::new(checker, self.fault),
            unframed: declared.is_none() && self.version <= Version::HTTP_10,
            buffer: self.config.buffer,
            ahead: Ahead::Open,
            head,
            delivery,
            id,
        }))
    }
}

/// A response whose head is not released yet.
struct Held<B, D: Algorithm> {
    head: Parts,
    body: Replay<B>,
    observation: Observation<Checker<D>>,
    delivery: Delivery,
    /// nothing but the end of the connection will tell the client where the body ends
    unframed: bool,
    buffer: u64,
    ahead: Ahead,
    id: Option<tower_stream_body::RequestId>,
}

impl<B, D> Held<B, D>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    D: Algorithm,
{
    /// Pending only for a body that the client could not see the end of.
    fn look_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let declared = self.delivery.declared_length();
        let (body, buffer) = (&mut self.body, self.buffer);
        self.ahead = self
            .observation
            .run(|| body.look_ahead(cx, buffer, declared));
        let wait = self.ahead == Ahead::Pending && self.unframed && self.buffer > 0;
        if wait && !self.observation.observer().is_judged() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn release(mut self) -> Response<VerifyBody<B, D>> {
        let checker = self.observation.observer_mut();
        match self.ahead {
            Ahead::Whole => {
                if let Err(error) =
                    checker.judge_ahead(self.body.data_ahead(), self.body.trailers_ahead())
                {
                    self.observation.fault().record(error.cause().clone());
                    // its drop reports the outcome, before the body goes
                    drop(self.observation);
                    let detail = "The response body does not match what was promised for it.";
                    let answer = problem(
                        StatusCode::BAD_GATEWAY,
                        "BadDigest",
                        detail,
                        self.id.as_ref(),
                    );
                    let (head, document) = instead_of(self.head, answer);
                    return Response::from_parts(head, VerifyBody::answer(document));
                }
            }
            Ahead::Open | Ahead::Pending if self.unframed && !checker.is_judged() => {
                checker.give_up(Unverifiable::Http10WithoutLength);
            }
            Ahead::Open | Ahead::Pending | Ahead::Failed => {}
        }
        let body = VerifyBody::checked(self.body, self.observation, self.delivery);
        Response::from_parts(self.head, body)
    }
}
