//! The body of a request.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_stream_core::{BoxError, Cause};

use crate::{
    alarm::Alarm,
    connection::{ConnectionHandle, RequestPart},
    pace::Pace,
};

pin_project! {
    /// The body of a request that [`serve`](crate::serve) received.
    ///
    /// It fails if the client sends it at less than [`min_rate`](crate::Serve::min_rate), with a
    /// [`Cause`] of the kind [`SlowUpload`](tower_stream_core::FaultKind::SlowUpload); and if the connection
    /// fails, with hyper's error.
    #[derive(Debug)]
    pub struct RequestBody {
        #[pin]
        inner: Incoming,
        // `None` if the request has no body. The handler may drop its body after the end of the response.
        part: Option<RequestPart>,
        // `None` without a minimum rate. Boxed: most requests have no body.
        limit: Option<Box<Limit>>,
    }
}

/// Measures how fast a client sends while the handler waits for it.
#[derive(Debug)]
struct Limit {
    pace: Arc<Pace>,
    alarm: Option<Alarm<Pace>>,
    handle: Arc<ConnectionHandle>,
}

impl RequestBody {
    /// Of a request without a body.
    pub(crate) fn empty(inner: Incoming) -> Self {
        Self {
            inner,
            part: None,
            limit: None,
        }
    }

    /// `limited` if the client has to send it at the minimum rate.
    pub(crate) fn new(inner: Incoming, handle: &Arc<ConnectionHandle>, limited: bool) -> Self {
        let limit = || {
            Box::new(Limit {
                pace: Arc::new(handle.pace().of_upload()),
                alarm: None,
                handle: Arc::clone(handle),
            })
        };
        Self {
            inner,
            part: Some(RequestPart::body_of(handle)),
            limit: limited.then(limit),
        }
    }
}

/// Whether the rate of the body of this request says nothing about its client: a gRPC call may have messages in both
/// directions for hours, and wait for the next one as long as it likes.
pub(crate) fn is_conversation(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

impl Limit {
    /// The client has sent this many bytes.
    fn received(&self, bytes: usize) {
        // A handler that has asked for data need not come back for it: this was not the client's time.
        match self.pace.is_overdue() {
            true => self.pace.forgets(),
            false => _ = self.pace.takes(bytes),
        }
    }

    /// The handler waits for the client.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        self.pace.waits();
        let alarm = self
            .alarm
            .get_or_insert_with(|| Alarm::new(Arc::clone(&self.pace)));
        let cause = ready!(Pin::new(alarm).poll(cx));
        tracing::debug!("request body ended: {}", cause.message());
        self.handle.upload_is_cut();
        Poll::Ready(cause)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(cx);
        if let Some(limit) = this.limit {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    limit.received(frame.data_ref().map_or(0, Bytes::len));
                }
                Poll::Ready(_) => {}
                Poll::Pending => {
                    let cause = ready!(limit.poll_late(cx));
                    return Poll::Ready(Some(Err(cause.into())));
                }
            }
        }
        polled.map_err(Into::into)
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
