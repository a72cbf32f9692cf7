//! Response bodies.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_core::{BoxError, wrapper::at_least};

use crate::reader::Reader;

/// The body of a response that this crate makes: a stream that is read, or a short text.
#[derive(Debug)]
pub struct StreamBody(Kind);

#[derive(Debug)]
enum Kind {
    Text(Bytes),
    Reader(Box<Reader>),
}

impl StreamBody {
    pub(crate) fn text(text: Bytes) -> Self {
        Self(Kind::Text(text))
    }

    pub(crate) fn reader(reader: Reader) -> Self {
        Self(Kind::Reader(Box::new(reader)))
    }

    pub(crate) fn respond(response: Response<Bytes>) -> Response<Self> {
        response.map(Self::text)
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Reader(reader) => reader.poll_frame(cx),
            Kind::Text(text) => {
                let text = std::mem::take(text);
                Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))))
            }
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Reader(reader) => reader.is_end_stream(),
            Kind::Text(text) => text.is_empty(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Reader(_) => at_least(0),
            Kind::Text(text) => SizeHint::with_exact(text.len() as u64),
        }
    }
}

pin_project! {
    /// The response body of a [`ResumeService`](crate::ResumeService).
    pub struct ResponseBody<B> {
        #[pin]
        kind: BodyKind<B>,
    }
}

pin_project! {
    #[project = BodyKindProj]
    enum BodyKind<B> {
        Inner { #[pin] body: B },
        Stream { body: StreamBody },
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn inner(body: B) -> Self {
        Self {
            kind: BodyKind::Inner { body },
        }
    }

    pub(crate) fn stream(body: StreamBody) -> Self {
        Self {
            kind: BodyKind::Stream { body },
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
            BodyKindProj::Inner { body } => body
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            BodyKindProj::Stream { body } => Pin::new(body).poll_frame(cx),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Inner { body } => body.is_end_stream(),
            BodyKind::Stream { body } => body.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Inner { body } => body.size_hint(),
            BodyKind::Stream { body } => body.size_hint(),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_stream = matches!(self.kind, BodyKind::Stream { .. });
        f.debug_struct("ResponseBody")
            .field("is_stream", &is_stream)
            .finish_non_exhaustive()
    }
}
