use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_body::{BoxError, ObservedBody, Scoped};

use super::{observer::RequestObserver, span::InSpan};

pin_project! {
    /// The response body of [`RequestSpan`](super::RequestSpan): passes every frame as it is.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Plain { #[pin] inner: B },
        Spanned { #[pin] inner: Scoped<ObservedBody<B, RequestObserver>, InSpan> },
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn plain(inner: B) -> Self {
        Self {
            kind: Kind::Plain { inner },
        }
    }

    pub(super) fn spanned(inner: ObservedBody<B, RequestObserver>, span: InSpan) -> Self {
        let inner = Scoped::new(inner, span);
        Self {
            kind: Kind::Spanned { inner },
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
            KindProj::Spanned { inner } => inner.poll_frame(cx),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Plain { inner } => inner.is_end_stream(),
            Kind::Spanned { inner } => inner.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain { inner } => inner.size_hint(),
            Kind::Spanned { inner } => inner.size_hint(),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spanned = matches!(self.kind, Kind::Spanned { .. });
        f.debug_struct("ResponseBody")
            .field("spanned", &spanned)
            .finish_non_exhaustive()
    }
}
