//! What an application says in its stream beyond the framing: when it is over, how it failed, that it is alive.

mod detector;
mod forms;
mod record;
mod vendors;

use std::{fmt, time::Duration};

use http::{HeaderMap, HeaderName, Method, StatusCode};
use serde_json::Value;

pub(crate) use self::detector::Detector;
pub use self::record::Record;
use crate::{FaultKind, RequestId, StreamKind};

/// The language of a stream: which record is its last one, how a failure is told in it, and which bytes its clients take for
/// a sign of life.
///
/// Framing says where bytes end. Many streams also have a **last record** of their own: OpenAI's `data: [DONE]`,
/// Anthropic's `message_stop`. A body that ends without it was cut, however cleanly it ended, and a record that is written
/// behind it can void an answer that is whole. So when a response is known to speak a dialect that has a last record,
///
/// * an end without it is a failure, [`FaultKind::Incomplete`];
/// * behind it no layer writes anything: no error, no farewell, no heartbeat. A failure that comes later changes nothing in
///   the outcome of the response;
/// * an error and a farewell have the form that the clients of the dialect read.
///
/// # Which dialect a response speaks
///
/// It is never guessed from the bytes of a body. In this order:
///
/// 1. the `Dialect` in the response extensions, which a handler puts there (with axum as `Extension(Dialect::OPENAI_CHAT)`);
/// 2. the dialect that a header of the response names: `x-vercel-ai-ui-message-stream` is [`Dialect::VERCEL_UI`];
/// 3. the dialect of the innermost layer that names one by [`Exchange::set_dialect`](crate::Exchange::set_dialect), as
///    `DialectLayer` of `tower-stream-errors` does;
/// 4. the plain dialect of the [`StreamKind`], which has no last record: [`Dialect::plain`].
///
/// A response whose content type is not that of its dialect, such as the answer to a chat request without `stream: true`,
/// has no records to follow. Of its dialect only the [`document`](Self::document) of an error is used.
///
/// # A dialect of your own
///
/// ```
/// use tower_stream_core::{Dialect, StreamKind};
///
/// static LOG_TAIL: Dialect = Dialect::new("log-tail", StreamKind::Sse)
///     .with_last_record("[END]", |record| &*record.data() == b"[END]")
///     .with_error(|error| format!("event: failed\ndata: {}\n\n", error.kind()));
/// # assert!(LOG_TAIL.has_last_record());
/// ```
#[derive(Clone, Copy)]
pub struct Dialect {
    name: &'static str,
    kind: StreamKind,
    last: Option<LastRecord>,
    error: fn(&ErrorReport<'_>) -> String,
    farewell: Option<fn(&ErrorReport<'_>) -> String>,
    document: Option<fn(&ErrorReport<'_>) -> Value>,
    keep_alive: KeepAlive,
}

#[derive(Clone, Copy, Debug)]
struct LastRecord {
    /// A record is parsed only if it contains one of these strings. Empty strings are unused entries.
    needles: [&'static str; 4],
    is_last: fn(&Record<'_>) -> bool,
    /// Called with a chunk that begins with a record. Returns true if the chunk ends with a record too, and none of its
    /// records is the last one. If it returns false, the chunk is searched.
    rules_out: fn(&[u8]) -> bool,
    /// Whether a client resumes the stream after an event with an `id:`, so that a body may end without the last
    /// record.
    resumable: bool,
    /// Only the answer to a POST has a last record.
    post_only: bool,
}

/// What a client of a dialect takes for a sign of life, and nothing else: the bytes of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeepAlive {
    /// A comment and a blank line: `: x\n\n`.
    Comment,
    /// A comment without a blank line: `: x\n`.
    CommentAlone,
    /// [`KeepAlive::Comment`] until the stream has sent an `id:` or a `retry:`, [`KeepAlive::CommentAlone`] from then on.
    CommentUnlessIds,
    /// An event with the name `ping` and data: `event: ping\ndata: {"type":"ping"}\n\n`.
    Ping,
    /// There are no bytes that the client skips.
    None,
}

/// A failure, as a [`Dialect`] tells it to the client. All of it is safe to send.
#[derive(Clone, Copy, Debug)]
pub struct ErrorReport<'a> {
    kind: FaultKind,
    status: StatusCode,
    message: &'a str,
    request_id: Option<&'a RequestId>,
    retry_after: Option<Duration>,
}

impl<'a> ErrorReport<'a> {
    /// A failure of this kind, which this status says before the head is sent.
    #[must_use]
    pub const fn new(kind: FaultKind, status: StatusCode, message: &'a str) -> Self {
        Self {
            kind,
            status,
            message,
            request_id: None,
            retry_after: None,
        }
    }

    /// The same, of the request with this id.
    #[must_use]
    pub const fn with_request_id(mut self, id: Option<&'a RequestId>) -> Self {
        self.request_id = id;
        self
    }

    /// The same, with when the client should come back.
    #[must_use]
    pub const fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// What kind of failure it is. [`FaultKind::Other`] for a response that only says a status, such as a 404.
    #[must_use]
    pub const fn kind(&self) -> FaultKind {
        self.kind
    }

    /// The status that fits.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// A sentence for the client.
    #[must_use]
    pub const fn message(&self) -> &'a str {
        self.message
    }

    /// The id of the request, if it has one.
    #[must_use]
    pub const fn request_id(&self) -> Option<&'a RequestId> {
        self.request_id
    }

    /// When the client should come back, if that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl Dialect {
    /// A dialect of this name for streams of this kind, with the forms of [`Dialect::plain`] and no last record.
    #[must_use]
    pub const fn new(name: &'static str, kind: StreamKind) -> Self {
        Self {
            name,
            ..Self::plain(kind)
        }
    }

    /// What a stream of this kind says of itself when nothing more is known of it. It has no last record.
    ///
    /// An error in server-sent events is `event: error` with `{"error":{..}}`, and a farewell `event: drain` with a `retry:`.
    /// In JSON lines and JSON text sequences they are the objects `{"error":{..}}` and `{"drain":{..}}`. Other kinds have no
    /// form of their own here; gRPC says both in its trailers.
    #[must_use]
    pub const fn plain(kind: StreamKind) -> Self {
        match kind {
            StreamKind::Sse => Self::SSE,
            StreamKind::JsonLines => Self::JSON_LINES,
            StreamKind::JsonSeq => Self::JSON_SEQ,
            StreamKind::Grpc => Self::without_forms("grpc", kind),
            StreamKind::GrpcWeb => Self::without_forms("grpc-web", kind),
            StreamKind::Other => Self::without_forms("other", kind),
        }
    }

    const fn without_forms(name: &'static str, kind: StreamKind) -> Self {
        Self {
            name,
            kind,
            last: None,
            error: |_| String::new(),
            farewell: None,
            document: None,
            keep_alive: KeepAlive::None,
        }
    }

    /// The same dialect, whose streams end with a record for which `is_last` is true.
    ///
    /// `is_last` is asked about records that contain `needle`, and no others, so the needle should be bytes that few other
    /// records have. A record longer than 256 KiB that contains the needle and comes in more than one chunk is taken for the
    /// last one, since it is not kept in memory.
    #[must_use]
    pub const fn with_last_record(
        self,
        needle: &'static str,
        is_last: fn(&Record<'_>) -> bool,
    ) -> Self {
        self.with_last(LastRecord::new([needle, "", "", ""], is_last))
    }

    const fn with_last(mut self, last: LastRecord) -> Self {
        self.last = Some(last);
        self
    }

    /// The same dialect, which tells a failure in these bytes. They are whole records. With none, the body is aborted.
    ///
    /// A farewell has the same form from now on, because a client that knows the dialect does not know another.
    #[must_use]
    pub const fn with_error(mut self, error: fn(&ErrorReport<'_>) -> String) -> Self {
        self.error = error;
        self.farewell = None;
        self
    }

    /// The same dialect, which tells a client in these bytes that the server is shutting down. They are whole records. With
    /// none, the body is aborted.
    #[must_use]
    pub const fn with_farewell(mut self, farewell: fn(&ErrorReport<'_>) -> String) -> Self {
        self.farewell = Some(farewell);
        self
    }

    /// The same dialect, in which this object is the content of a response that says an error by its status.
    #[must_use]
    pub const fn with_document(mut self, document: fn(&ErrorReport<'_>) -> Value) -> Self {
        self.document = Some(document);
        self
    }

    /// The same dialect with this form of a heartbeat.
    #[must_use]
    pub const fn with_keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// The name of the dialect, for logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The kind of its streams.
    #[must_use]
    pub const fn kind(&self) -> StreamKind {
        self.kind
    }

    /// Whether its streams end with a record that says so.
    #[must_use]
    pub const fn has_last_record(&self) -> bool {
        self.last.is_some()
    }

    /// Whether an error response has a form of its own: [`document`](Self::document).
    #[must_use]
    pub const fn has_document(&self) -> bool {
        self.document.is_some()
    }

    /// Whether a stream of this dialect is over with this record.
    #[must_use]
    pub fn is_last_record(&self, record: &Record<'_>) -> bool {
        self.last.is_some_and(|last| (last.is_last)(record))
    }

    /// The form of a heartbeat.
    #[must_use]
    pub const fn keep_alive(&self) -> KeepAlive {
        self.keep_alive
    }

    /// The records that tell a failure in the middle of a stream. Empty: there is no form, and the body is aborted.
    #[must_use]
    pub fn error(&self, report: &ErrorReport<'_>) -> String {
        (self.error)(report)
    }

    /// The records that tell a client that the server is shutting down. Empty: there is no form, and the body is aborted.
    #[must_use]
    pub fn farewell(&self, report: &ErrorReport<'_>) -> String {
        self.farewell.unwrap_or(self.error)(report)
    }

    /// The content, `application/json`, of a response that says an error by its status. `None`: the dialect has none, and an
    /// RFC 9457 problem document is as good.
    #[must_use]
    pub fn document(&self, report: &ErrorReport<'_>) -> Option<Value> {
        self.document.map(|document| document(report))
    }

    /// The dialect that a response head names in a header.
    #[must_use]
    pub fn of_headers(headers: &HeaderMap) -> Option<Self> {
        headers.keys().find_map(Self::of_header).copied()
    }

    /// The dialect that a header of this name announces.
    #[inline]
    pub(crate) fn of_header(name: &HeaderName) -> Option<&'static Self> {
        // AI SDK UI: ai/src/ui-message-stream/ui-message-stream-headers.ts
        // A string: a `HeaderName` constant would be made and dropped for each comparison.
        (name.as_str() == "x-vercel-ai-ui-message-stream").then_some(&Self::VERCEL_UI)
    }

    /// What follows the records of an answer to such a request. `None`: it has no last record.
    pub(crate) fn detector(&self, method: &Method) -> Option<Detector> {
        let last = self.last?;
        let posted = !last.post_only || *method == Method::POST;
        let format = self.kind.records().filter(|_| posted)?;
        Some(Detector::new(last, format))
    }
}

impl LastRecord {
    const fn new(needles: [&'static str; 4], is_last: fn(&Record<'_>) -> bool) -> Self {
        Self {
            needles,
            is_last,
            rules_out: |_| false,
            resumable: false,
            post_only: false,
        }
    }
}

impl fmt::Debug for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialect")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("has_last_record", &self.has_last_record())
            .field("keep_alive", &self.keep_alive)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
