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
use tower_stream_core::{BoxError, Delivery, ExpectedDigest, Fault, Observation};

use super::{
    Checker, Request, Unverifiable, VerifyBody, bad_promise, checked, instead_of, layer::Config,
    problem,
};
use crate::{
    fields,
    replay::{Ahead, Replay},
};

pin_project! {
    /// The future of [`VerifyDigestService`](super::VerifyDigestService).
    pub struct VerifyDigestFuture<F, B> {
        #[pin]
        step: Step<F, B>,
    }
}

pin_project! {
    // what is boxed is so because the layer may be off, and every request moves its room about
    #[project = StepProjection]
    enum Step<F, B> {
        // `None`: the layer is off
        Called { #[pin] inner: F, call: Option<Box<Call>> },
        // `None`: released
        Waiting { held: Option<Box<Held<B>>> },
    }
}

impl<F, B> VerifyDigestFuture<F, B> {
    pub(super) fn new(inner: F, call: Option<Box<Call>>) -> Self {
        Self {
            step: Step::Called { inner, call },
        }
    }
}

impl<F, B> fmt::Debug for VerifyDigestFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyDigestFuture").finish_non_exhaustive()
    }
}

impl<F, B, E> Future for VerifyDigestFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<VerifyBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut step = self.project().step;
        match step.as_mut().project() {
            StepProjection::Called { inner, call } => {
                let response = ready!(inner.poll(cx))?;
                let Some(call) = call.take() else {
                    return Poll::Ready(Ok(response.map(VerifyBody::off)));
                };
                let mut held = match call.head(response) {
                    Ok(held) => held,
                    Err(response) => return Poll::Ready(Ok(response)),
                };
                if held.look_ahead(cx).is_pending() {
                    let held = Some(Box::new(held));
                    step.set(Step::Waiting { held });
                    return Poll::Pending;
                }
                Poll::Ready(Ok(held.release()))
            }
            StepProjection::Waiting { held: waiting } => {
                let held = waiting.as_mut().expect("not polled after it was ready");
                ready!(held.look_ahead(cx));
                let held = waiting.take().expect("held a line ago");
                Poll::Ready(Ok(held.release()))
            }
        }
    }
}

/// What a response must know of its request.
pub(super) struct Call {
    config: Arc<Config>,
    request: Request,
    version: Version,
    fault: Fault,
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

    /// The response to be checked, or, as an `Err`, the one that need not be.
    fn head<B>(mut self, response: Response<B>) -> Result<Held<B>, Response<VerifyBody<B>>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let (mut head, body) = response.into_parts();
        self.fault.join(&mut head.extensions);
        let delivery = Delivery::new(&self.request.method, head.status, &head.headers, &body);
        let promised = match delivery.is_bodiless() {
            true => None,
            false => {
                let whole = fields::is_whole(head.status, &head.headers);
                self.config.promised(&head.headers, whole)
            }
        };
        let Some(promised) = promised else {
            return Err(Response::from_parts(head, VerifyBody::off(body)));
        };

        let declared = delivery.declared_length();
        let id = self.request.id.clone();
        let refused = self
            .config
            .refused(&promised, "response head", &self.request.uri);
        let first = promised.iter().find_map(|promised| promised.digest);
        let whole = fields::is_whole(head.status, &head.headers);
        let checker = Checker::new(&promised, whole, declared, self.request, &self.config);
        head.extensions.insert(checker.later());
        let observation = Observation::new(checker, self.fault);
        if let Some(bad) = refused {
            // its drop reports the outcome
            drop(observation);
            let answer = bad_promise(StatusCode::BAD_GATEWAY, bad, id.as_ref());
            return Err(in_place_of(head, answer));
        }
        if let Some(digest) = first {
            head.extensions.insert(ExpectedDigest::new(
                digest.algorithm(),
                digest.as_bytes(),
                &head.headers,
            ));
        }
        Ok(Held {
            body: Replay::new(body),
            observation,
            unframed: declared.is_none() && self.version <= Version::HTTP_10,
            buffer: self.config.buffer,
            ahead: Ahead::Open,
            head,
            delivery,
            id,
        })
    }
}

/// This answer instead of the response with this head.
fn in_place_of<B>(head: Parts, answer: Response<Bytes>) -> Response<VerifyBody<B>> {
    let (head, document) = instead_of(head, answer);
    Response::from_parts(head, super::answer(document))
}

/// A response whose head is not released yet.
struct Held<B> {
    // first, so that it is dropped before the body: observers report from the outside in
    observation: Observation<Checker>,
    head: Parts,
    body: Replay<B>,
    delivery: Delivery,
    /// nothing but the end of the connection will tell the client where the body ends
    unframed: bool,
    buffer: u64,
    ahead: Ahead,
    id: Option<tower_stream_core::RequestId>,
}

impl<B> Held<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Pending only for a body that the client could not see the end of.
    fn look_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // a digest that is still to come in the trailers is behind the declared length
        let checker = self.observation.observer();
        let declared = (self.delivery.declared_length()).filter(|_| checker.expects_no_trailer());
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

    fn release(mut self) -> Response<VerifyBody<B>> {
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
                    return in_place_of(self.head, answer);
                }
            }
            Ahead::Open | Ahead::Pending if self.unframed && !checker.is_judged() => {
                checker.give_up(Unverifiable::Http10WithoutLength);
            }
            Ahead::Open | Ahead::Pending | Ahead::Failed => {}
        }
        let body = checked(self.body, self.observation, self.delivery);
        Response::from_parts(self.head, body)
    }
}
