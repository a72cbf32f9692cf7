use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_body::{BoxError, ObservedBody};

use crate::stream::Stream;

pin_project! {
    /// The body of [`StreamMetrics`](crate::StreamMetrics): the inner body, unchanged.
    pub struct ResponseBody<B> {
        #[pin]
        inner: Inner<B>,
    }
}

pin_project! {
    #[project = Projected]
    enum Inner<B> {
        Measured { #[pin] body: ObservedBody<B, Stream> },
        Unmeasured { #[pin] body: B },
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn measured(body: ObservedBody<B, Stream>) -> Self {
        Self {
            inner: Inner::Measured { body },
        }
    }

    pub(crate) fn unmeasured(body: B) -> Self {
        Self {
            inner: Inner::Unmeasured { body },
        }
    }
}

impl<B> Body for ResponseBody<B>
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
        match self.project().inner.project() {
            Projected::Measured { body } => body.poll_frame(cx),
            Projected::Unmeasured { body } => body.poll_frame(cx).map_err(Into::into),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Measured { body } => body.is_end_stream(),
            Inner::Unmeasured { body } => body.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Measured { body } => body.size_hint(),
            Inner::Unmeasured { body } => body.size_hint(),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measured = matches!(self.inner, Inner::Measured { .. });
        f.debug_struct("ResponseBody")
            .field("measured", &measured)
            .finish_non_exhaustive()
    }
}
