//! The body that numbers its chunks.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_body::{BoxError, FaultKind, StreamError, bytes_changed};

use super::{Numbers, json::JsonStamper, sse::SseStamper};

pin_project! {
    /// A body whose chunks and records are numbered; see [`SequenceLayer`](crate::SequenceLayer).
    #[derive(Debug)]
    pub struct SequenceBody<B> {
        #[pin]
        inner: B,
        stamp: Stamp,
        // `None` when the layer is off
        numbers: Option<Numbers>,
        length: Length,
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
        let Self { declared, given } = self;
        let message = format!("the body ended after {given} of {declared} bytes");
        StreamError::new(FaultKind::ShortBody, message).into()
    }
}

impl<B> SequenceBody<B> {
    pub(super) fn new(inner: B, stamp: Stamp, numbers: Option<Numbers>, length: Length) -> Self {
        Self {
            inner,
            stamp,
            numbers,
            length,
        }
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
        let polled = ready!(this.inner.poll_frame(cx));
        let Some(numbers) = this.numbers else {
            return Poll::Ready(polled.map(|frame| frame.map_err(Into::into)));
        };
        let frame = match polled {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None if this.length.is_short() => return Poll::Ready(Some(Err(this.length.error()))),
            None => return Poll::Ready(None),
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            // trailers end a body
            Err(_) if this.length.is_short() => {
                return Poll::Ready(Some(Err(this.length.error())));
            }
            Err(other) => return Poll::Ready(this.stamp.trailers(other).map(Ok)),
        };
        this.length.given += data.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(match this.stamp {
            Stamp::Nothing => {
                numbers.draw();
                data
            }
            Stamp::Sse(stamper) => {
                numbers.draw();
                stamper.stamp(data)
            }
            Stamp::Json(stamper) => {
                let mut drawn = false;
                let stamped = stamper.stamp(data, || {
                    drawn = true;
                    numbers.draw()
                });
                if !drawn {
                    numbers.draw();
                }
                stamped
            }
        }))))
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        // nothing is ever held back; one that fell short has its error to come
        self.inner.is_end_stream() && !self.length.is_short()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.size_hint();
        if matches!(self.stamp, Stamp::Nothing) {
            return inner;
        }
        let mut size = SizeHint::new();
        size.set_lower(inner.lower());
        size
    }
}
