//! The body that is checked on its way.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_body::{BoxError, Delivery, Observation, ObservedBody};

use super::Checker;
use crate::{Algorithm, replay::Replay};

pin_project! {
    /// The body that [`VerifyDigestLayer`](crate::VerifyDigestLayer) and
    /// [`VerifyRequestDigestLayer`](crate::VerifyRequestDigestLayer) make.
    ///
    /// The frame that completes the body is judged in the poll that gives it out, and is withheld, with a
    /// [`DigestError`](crate::DigestError) in its place, when the bytes are not those that were promised. All others pass
    /// at once.
    pub struct VerifyBody<B, D: Algorithm> {
        #[pin]
        kind: Kind<B, D>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B, D: Algorithm> {
        Untouched { #[pin] inner: B },
        // boxed: a response that promises nothing should not carry its size about
        Checked { inner: Box<ObservedBody<Replay<B>, Checker<D>>>, failed: bool },
        Answer { document: Option<Bytes> },
    }
}

impl<B, D: Algorithm> VerifyBody<B, D> {
    pub(crate) fn untouched(inner: B) -> Self {
        Self {
            kind: Kind::Untouched { inner },
        }
    }

    /// A body of our own, in place of the one that was promised.
    pub(crate) fn answer(document: Bytes) -> Self {
        Self {
            kind: Kind::Answer {
                document: Some(document),
            },
        }
    }
}

impl<B, D> VerifyBody<B, D>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    D: Algorithm,
{
    pub(crate) fn checked(
        body: Replay<B>,
        observation: Observation<Checker<D>>,
        delivery: Delivery,
    ) -> Self {
        Self {
            kind: Kind::Checked {
                inner: Box::new(ObservedBody::new(body, observation, delivery)),
                failed: false,
            },
        }
    }
}

impl<B, D> Body for VerifyBody<B, D>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    D: Algorithm,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let (mut inner, failed) = match self.project().kind.project() {
            KindProjection::Untouched { inner } => return inner.poll_frame(cx).map_err(Into::into),
            KindProjection::Answer { document } => {
                return Poll::Ready(document.take().map(|json| Ok(Frame::data(json))));
            }
            KindProjection::Checked { inner, failed } => (Pin::new(&mut **inner), failed),
        };
        if *failed {
            return Poll::Ready(None);
        }
        let frame = match ready!(inner.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => Some(frame),
            None => None,
            Some(Err(error)) => {
                *failed = true;
                inner.observation_mut().observer_mut().aborted();
                return Poll::Ready(Some(Err(error)));
            }
        };
        let ended = inner.is_end_stream();
        let observation = inner.observation_mut();
        let checker = observation.observer_mut();
        let judged = match &frame {
            None => checker.judge(None),
            Some(frame) => match frame.trailers_ref() {
                Some(trailers) => checker.judge(Some(trailers)),
                None if checker.is_due(ended) => checker.judge(None),
                None => Ok(()),
            },
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
        match &self.kind {
            Kind::Untouched { inner } => inner.is_end_stream(),
            Kind::Answer { document } => document.is_none(),
            Kind::Checked { inner, failed } => {
                *failed || (inner.is_end_stream() && inner.observation().observer().is_judged())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched { inner } => inner.size_hint(),
            Kind::Answer { document } => {
                SizeHint::with_exact(document.as_ref().map_or(0, Bytes::len) as u64)
            }
            Kind::Checked { inner, .. } => inner.size_hint(),
        }
    }
}

impl<B: fmt::Debug, D: Algorithm> fmt::Debug for VerifyBody<B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Untouched { inner } => f.debug_tuple("VerifyBody").field(inner).finish(),
            Kind::Answer { document } => f.debug_tuple("VerifyBody").field(document).finish(),
            Kind::Checked { inner, .. } => f.debug_tuple("VerifyBody").field(inner).finish(),
        }
    }
}
