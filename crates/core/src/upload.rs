//! Distinguishes a client that disconnects during its upload from a failure of the server.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{BoxError, Cause, FaultKind, relay::relay};

pin_project! {
    /// A request body that marks errors of its connection as errors of the client.
    ///
    /// A handler that makes its response from the request body (an echo or a proxy) fails when the client disconnects
    /// in the middle of the upload. The error that the handler passes on looks like an I/O error of the handler, unless
    /// it was marked at its source: here, errors of the kinds [`Io`](FaultKind::Io) and [`Reset`](FaultKind::Reset)
    /// become [`FaultKind::ClientLeft`] for [`Cause::of`], also if the handler wraps them. The original error is their
    /// source. Other errors, such as that of a body limit, and all frames pass unchanged.
    ///
    /// The error writer wraps each axum request body in it. Wrap any other type of body outside of the layers:
    /// `service.map_request(|request| request.map(UploadBody::new))`.
    #[derive(Debug)]
    pub struct UploadBody<B> {
        #[pin]
        inner: B,
    }
}

impl<B> UploadBody<B> {
    /// Wraps the body of a request.
    pub fn new(inner: B) -> Self {
        Self { inner }
    }
}

impl<B> Body for UploadBody<B>
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
        match relay(self.project().inner.poll_frame(cx)) {
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(marked(error)))),
            polled => polled,
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cold]
fn marked(error: BoxError) -> BoxError {
    match Cause::of(&*error).kind() {
        FaultKind::Io | FaultKind::Reset => Box::new(ClientLeft(error)),
        _ => error,
    }
}

/// An error of the connection of a request.
#[derive(Debug)]
pub(crate) struct ClientLeft(BoxError);

impl fmt::Display for ClientLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the client did not finish its request body")
    }
}

impl Error for ClientLeft {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// Wraps an axum request body that has not ended in an [`UploadBody`]; its type does not change.
#[cfg(feature = "axum")]
pub fn mark_upload<B: 'static>(body: &mut B) {
    let any: &mut dyn std::any::Any = body;
    if let Some(body) = any.downcast_mut::<axum_core::body::Body>()
        && !body.is_end_stream()
    {
        let inner = std::mem::take(body);
        *body = axum_core::body::Body::new(UploadBody::new(inner));
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use http_body_util::BodyExt;

    use super::*;
    use crate::{
        Outcome,
        mock::{self, MockBody},
    };

    async fn cause(error: impl Into<BoxError>) -> Cause {
        let body = UploadBody::new(MockBody::new([mock::data("a"), mock::error(error)]));
        let error = body.collect().await.unwrap_err();
        // As a handler passes it on.
        Cause::of(&io::Error::other(error))
    }

    #[tokio::test]
    async fn errors_of_the_connection_are_the_clients() {
        let cut = cause(io::Error::from(io::ErrorKind::ConnectionReset)).await;
        assert_eq!(cut.kind(), FaultKind::ClientLeft);
        assert_eq!(cut.kind().outcome(), Outcome::Aborted);
        assert_eq!(
            cut.message(),
            "the client did not finish its request body: connection reset"
        );
        let late = cause(io::Error::from(io::ErrorKind::TimedOut)).await;
        assert_eq!(late.kind(), FaultKind::Timeout);
        assert_eq!(cause("too long").await.kind(), FaultKind::Other);
    }

    #[test]
    fn size_and_end_are_those_of_the_body() {
        let body = || MockBody::new([mock::data("abc")]).with_true_size();
        assert_eq!(UploadBody::new(body()).size_hint().exact(), Some(3));
        let ended = UploadBody::new(MockBody::new([]).tells_end());
        assert!(ended.is_end_stream());
    }
}
