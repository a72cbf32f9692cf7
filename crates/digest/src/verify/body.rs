//! The body that is checked on its way.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower_stream_core::{BoxError, Delivery, Observation, ObservedBody, Switched};

use super::Checker;
use crate::replay::Replay;

/// The body that [`VerifyDigestLayer`](crate::VerifyDigestLayer) and
/// [`VerifyRequestDigestLayer`](crate::VerifyRequestDigestLayer) make.
///
/// The frame that completes the body is judged in the poll that gives it out, and is withheld, with a
/// [`DigestError`](crate::DigestError) in its place, when the bytes are not those that were promised. All others pass
/// at once. A body of which nothing was promised passes as it is.
pub type VerifyBody<B> = Switched<B, Box<CheckedBody<B>>>;

/// A body that is checked, or the answer in its place.
pub struct CheckedBody<B>(Kind<B>);

#[expect(
    clippy::large_enum_variant,
    reason = "it is boxed, and an answer is rare"
)]
enum Kind<B> {
    Checked {
        inner: ObservedBody<Replay<B>, Checker>,
        failed: bool,
    },
    Answer {
        document: Option<Bytes>,
    },
}

/// A body of our own, in place of the one that was promised.
pub(crate) fn answer<B>(document: Bytes) -> VerifyBody<B> {
    VerifyBody::on(Box::new(CheckedBody(Kind::Answer {
        document: Some(document),
    })))
}

pub(crate) fn checked<B>(
    body: Replay<B>,
    observation: Observation<Checker>,
    delivery: Delivery,
) -> VerifyBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    VerifyBody::on(Box::new(CheckedBody(Kind::Checked {
        inner: ObservedBody::new(body, observation, delivery),
        failed: false,
    })))
}

impl<B> Body for CheckedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let (mut inner, failed) = match &mut self.0 {
            Kind::Answer { document } => {
                return Poll::Ready(document.take().map(|json| Ok(Frame::data(json))));
            }
            Kind::Checked { inner, failed } => (Pin::new(inner), failed),
        };
        if *failed {
            return Poll::Ready(None);
        }
        let polled = ready!(inner.as_mut().poll_frame(cx));
        let ended = inner.is_end_stream();
        let observation = inner.observation_mut();
        let checker = observation.observer_mut();
        // data is framed again, for a `Frame` that is moved whole costs more: see `ObservedBody`
        let (frame, judged) = match polled.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) if !checker.is_due(ended) => {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Ok(Ok(data))) => (Some(Frame::data(data)), checker.judge(None)),
            Some(Ok(Err(frame))) => {
                let judged = match frame.trailers_ref() {
                    Some(trailers) => checker.judge(Some(trailers)),
                    None => Ok(()),
                };
                (Some(frame), judged)
            }
            None => (None, checker.judge(None)),
            Some(Err(error)) => {
                *failed = true;
                checker.aborted();
                return Poll::Ready(Some(Err(error)));
            }
        };
        match judged {
            Ok(()) => Poll::Ready(frame.map(Ok)),
            Err(error) => {
                *failed = true;
                observation.fault().record(error.cause().clone());
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Answer { document } => document.is_none(),
            Kind::Checked { inner, failed } => {
                *failed || (inner.is_end_stream() && inner.observation().observer().is_judged())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Answer { document } => {
                SizeHint::with_exact(document.as_ref().map_or(0, Bytes::len) as u64)
            }
            Kind::Checked { inner, .. } => inner.size_hint(),
        }
    }
}

impl<B> fmt::Debug for CheckedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Answer { document } => f.debug_tuple("CheckedBody").field(document).finish(),
            Kind::Checked { inner, .. } => f.debug_tuple("CheckedBody").field(inner).finish(),
        }
    }
}
