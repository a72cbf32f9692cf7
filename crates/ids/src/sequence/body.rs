//! The body that numbers its chunks.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

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
    }
}

/// What is written into a body.
#[derive(Debug)]
pub(super) enum Stamp {
    Nothing,
    Sse(SseStamper),
    Json(JsonStamper),
}

impl<B> SequenceBody<B> {
    pub(super) fn new(inner: B, stamp: Stamp, numbers: Option<Numbers>) -> Self {
        Self {
            inner,
            stamp,
            numbers,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for SequenceBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let polled = ready!(this.inner.poll_frame(cx));
        let Some(numbers) = this.numbers else {
            return Poll::Ready(polled);
        };
        Poll::Ready(polled.map(|frame| {
            frame.map(|frame| match frame.into_data() {
                Ok(data) => Frame::data(match this.stamp {
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
                }),
                Err(other) => other,
            })
        }))
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        // nothing is ever held back
        self.inner.is_end_stream()
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
