//! The body that numbers its chunks.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_core::{BoxError, Cause, StreamError, bytes_changed, relay};

use super::{Work, json::JsonStamper, sse::SseStamper};

pin_project! {
    /// A body whose chunks and records are numbered; see [`SequenceLayer`](crate::SequenceLayer).
    #[derive(Debug)]
    pub struct SequenceBody<B> {
        #[pin]
        inner: B,
        // `None` when the layer is off
        work: Option<Box<Work>>,
    }
}

/// What is written into a body.
#[derive(Debug)]
pub(super) enum Stamp {
    Nothing,
    Sse(SseStamper),
    Json(JsonStamper),
}

impl Stamp {
    /// A digest in the trailers speaks of the bytes without stamps, as one in the head did.
    fn trailers<T>(&self, frame: Frame<T>) -> Option<Frame<T>> {
        if matches!(self, Self::Nothing) {
            return Some(frame);
        }
        match frame.into_trailers() {
            Ok(mut trailers) => {
                bytes_changed(&mut trailers);
                (!trailers.is_empty()).then(|| Frame::trailers(trailers))
            }
            Err(other) => Some(other),
        }
    }
}

/// The length that was declared of a body, and taken out of its head for the stamps. Nobody further out knows it any
/// more, so a body that falls short of it would look whole.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Length {
    declared: u64,
    given: u64,
}

impl Length {
    pub(super) fn declared(declared: u64) -> Self {
        Self { declared, given: 0 }
    }

    fn is_short(self) -> bool {
        self.given < self.declared
    }

    #[cold]
    fn error(self) -> BoxError {
        StreamError::from(Cause::short_body(self.given, self.declared)).into()
    }
}

impl Work {
    /// The next chunk, numbered, with what belongs into it.
    #[inline]
    fn stamped(&mut self, data: Bytes) -> Bytes {
        self.length.given += data.len() as u64;
        let (sequence, draws) = (&self.sequence, self.draws);
        let draw = || match draws {
            true => sequence.next(),
            false => sequence.last(),
        };
        match &mut self.stamp {
            Stamp::Nothing => {
                draw();
                data
            }
            Stamp::Sse(stamper) => {
                draw();
                stamper.stamp(data)
            }
            Stamp::Json(stamper) => {
                let mut drawn = false;
                let stamped = stamper.stamp(data, || {
                    drawn = true;
                    draw()
                });
                if !drawn {
                    draw();
                }
                stamped
            }
        }
    }
}

impl<B> SequenceBody<B> {
    pub(super) fn new(inner: B, work: Option<Box<Work>>) -> Self {
        Self { inner, work }
    }
}

impl<B> Body for SequenceBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let Some(work) = this.work else {
            return relay(this.inner.poll_frame(cx));
        };
        let frame = match ready!(this.inner.poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None if work.length.is_short() => return Poll::Ready(Some(Err(work.length.error()))),
            None => return Poll::Ready(None),
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            // trailers end a body
            Err(_) if work.length.is_short() => {
                return Poll::Ready(Some(Err(work.length.error())));
            }
            Err(other) => return Poll::Ready(work.stamp.trailers(other).map(Ok)),
        };
        Poll::Ready(Some(Ok(Frame::data(work.stamped(data)))))
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        // nothing is ever held back; one that fell short has its error to come
        let short = |work: &Work| work.length.is_short();
        self.inner.is_end_stream() && !self.work.as_deref().is_some_and(short)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.size_hint();
        let Some(work) = &self.work else {
            return inner;
        };
        if matches!(work.stamp, Stamp::Nothing) {
            return inner;
        }
        let mut size = SizeHint::new();
        size.set_lower(inner.lower());
        size
    }
}
