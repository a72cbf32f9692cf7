use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_body::{BoxError, ObservedBody};

use super::observer::ChunkObserver;

pin_project! {
    /// The response body of [`ChunkSpan`](super::ChunkSpan): passes every frame as it is.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Plain { #[pin] inner: B },
        Sampled { #[pin] inner: ObservedBody<B, Box<ChunkObserver>> },
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn plain(inner: B) -> Self {
        Self {
            kind: Kind::Plain { inner },
        }
    }

    pub(super) fn sampled(inner: ObservedBody<B, Box<ChunkObserver>>) -> Self {
        Self {
            kind: Kind::Sampled { inner },
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
        match self.project().kind.project() {
            KindProj::Plain { inner } => inner
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            KindProj::Sampled { inner } => inner.poll_frame(cx),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Plain { inner } => inner.is_end_stream(),
            Kind::Sampled { inner } => inner.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain { inner } => inner.size_hint(),
            Kind::Sampled { inner } => inner.size_hint(),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sampled = matches!(self.kind, Kind::Sampled { .. });
        f.debug_struct("ResponseBody")
            .field("sampled", &sampled)
            .finish_non_exhaustive()
    }
}
