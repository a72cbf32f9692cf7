//! How a failure is told to the client.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, Uri, Version};
use serde_json::{Map, Value};
use tower_stream_core::{Cause, Dialect, ErrorReport, FaultKind, RequestId, StreamKind};

use crate::{DefaultWriter, request::RequestInfo};

/// Says a failure in the format that the client is reading.
///
/// Both methods have the default that [`DefaultWriter`] implements, so a writer for one format overrides one method
/// and leaves the other kinds alone. A writer that panics is treated as one that gave the default head, or
/// [`Tail::Abort`].
///
/// ```
/// use tower_stream_errors::{DefaultWriter, ErrorWriterLayer, Failure, Tail, WriteError};
/// use tower_stream_core::StreamKind;
///
/// /// Log tails are plain text: say it in a last line.
/// struct PlainText;
///
/// impl WriteError for PlainText {
///     fn tail(&self, failure: &Failure<'_>) -> Tail {
///         match failure.stream() {
///             StreamKind::Other if failure.uri().path().starts_with("/logs/") => {
///                 Tail::Data(format!("\n-- stream failed: {} --\n", failure.kind()).into())
///             }
///             _ => DefaultWriter.tail(failure),
///         }
///     }
/// }
///
/// let layer = ErrorWriterLayer::new().writer(PlainText);
/// # let _ = layer;
/// ```
pub trait WriteError: Send + Sync + 'static {
    /// The whole response, when nothing of one has been sent yet.
    ///
    /// Headers of the head that it replaces are gone, except `Connection`, `Vary` and `Access-Control-*`, which the
    /// layer carries over.
    fn head(&self, failure: &Failure<'_>) -> Response<Bytes> {
        DefaultWriter.head(failure)
    }

    /// What ends a body whose head has been sent.
    ///
    /// Not asked for where nothing may be written: the length of the body was declared, it is a range (206), it has a
    /// `Content-Encoding`, or half a record had to be sent because it was over the hold cap. Such a body is aborted.
    fn tail(&self, failure: &Failure<'_>) -> Tail {
        DefaultWriter.tail(failure)
    }
}

/// The last thing a failed body gives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tail {
    /// These bytes, then what [`AfterTail`](crate::AfterTail) says. Without any it is an abort, since the client would
    /// see a clean end.
    Data(Bytes),
    /// These trailers, which end the body. Over HTTP/1 they would be dropped on the way, so there it is an abort, and
    /// without any too.
    Trailers(HeaderMap),
    /// Nothing: the body fails, which the client sees as a truncated response (h1) or a stream that is reset with
    /// `INTERNAL_ERROR` (h2).
    Abort,
}

/// A failed response, as a [`WriteError`] sees it.
///
/// What the error or the panic said is for the operator: [`Failure::message`] gives a text that is safe to send.
pub struct Failure<'a> {
    pub(crate) cause: &'a Cause,
    pub(crate) stream: StreamKind,
    pub(crate) request: &'a RequestInfo,
    pub(crate) request_id: Option<&'a RequestId>,
    pub(crate) expose: bool,
    pub(crate) dialect: Option<Dialect>,
}

impl Failure<'_> {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        self.cause.kind()
    }

    /// The status that fits the kind: 504 for a timeout, 502 for a digest mismatch, 503 for a drain, 408 for a request
    /// body that was sent too slowly, 400 for one
    /// that broke off, otherwise 500.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.kind() {
            FaultKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            FaultKind::DigestMismatch => StatusCode::BAD_GATEWAY,
            FaultKind::Drain => StatusCode::SERVICE_UNAVAILABLE,
            FaultKind::ClientLeft => StatusCode::BAD_REQUEST,
            FaultKind::SlowUpload => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The gRPC status code that fits the kind: 4 for a timeout and a slow request
    /// body, 14 for a drain, 15 for a digest mismatch, 1 for a request body
    /// that broke off or a client that does not read, otherwise 13 (`INTERNAL`).
    #[must_use]
    pub fn grpc_status(&self) -> u8 {
        match self.kind() {
            FaultKind::Timeout | FaultKind::SlowUpload => 4,
            FaultKind::Drain => 14,
            FaultKind::ClientLeft | FaultKind::SlowReader => 1,
            FaultKind::DigestMismatch => 15,
            _ => 13,
        }
    }

    /// A sentence for the client. It tells nothing of the error or panic, unless the layer was told to with
    /// [`expose_messages`](crate::ErrorWriterLayer::expose_messages).
    #[must_use]
    pub fn message(&self) -> Cow<'_, str> {
        if self.expose {
            return Cow::Borrowed(self.cause.message());
        }
        Cow::Borrowed(match self.kind() {
            FaultKind::Timeout => "the response took too long",
            FaultKind::Drain => "the server is going away",
            FaultKind::ClientLeft => "the request body ended too early",
            FaultKind::DigestMismatch => "the content did not match its digest",
            FaultKind::Incomplete => "the response ended before it was complete",
            FaultKind::Cancelled => "the stream was cancelled",
            FaultKind::ProducerLost => "the server that produced the stream was lost",
            _ => "the response failed on the server",
        })
    }

    /// Why it failed, **for the operator**: the message may hold what a panic said.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        self.cause
    }

    /// What the response streams. [`StreamKind::Other`] when there is no head yet.
    #[must_use]
    pub fn stream(&self) -> StreamKind {
        self.stream
    }

    /// The dialect that was named for the response: see [`Dialect`]. It may be that of streams of another kind than this
    /// response's.
    #[must_use]
    pub fn dialect(&self) -> Option<Dialect> {
        self.dialect
    }

    /// The failure as a [`Dialect`] tells it.
    pub(crate) fn report<'a>(&'a self, message: &'a str) -> ErrorReport<'a> {
        ErrorReport::new(self.kind(), self.status(), message)
            .with_request_id(self.request_id)
            .with_retry_after(self.cause.retry_after())
    }

    /// The id of the request, if it has one.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        self.request_id
    }

    /// The method of the request.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.request.method
    }

    /// The target of the request, as the layer saw it.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.request.uri
    }

    /// The HTTP version of the request.
    #[must_use]
    pub fn version(&self) -> Version {
        self.request.version
    }

    /// Whether the client would rather have HTML than JSON, as a browser's `Accept` says.
    #[must_use]
    pub fn wants_html(&self) -> bool {
        self.request.wants_html()
    }

    /// Whether the request is one of gRPC or gRPC-Web, by its content type.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.request.grpc_type().is_some()
    }

    /// The members `kind`, `status`, `message` and, if there is one, `request_id`: what the default writer puts under
    /// `error`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut members = Map::new();
        members.insert("kind".to_owned(), self.kind().public_name().into());
        members.insert("status".to_owned(), self.status().as_u16().into());
        members.insert("message".to_owned(), self.message().into());
        if let Some(id) = self.request_id {
            members.insert("request_id".to_owned(), id.as_str().into());
        }
        Value::Object(members)
    }
}

impl fmt::Debug for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("cause", &self.cause)
            .field("stream", &self.stream)
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}
