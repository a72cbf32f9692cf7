//! One log event for each response, when it has ended.
//!
//! [`RequestSpanLayer`](crate::RequestSpanLayer) logs it, with the target `tower_stream_trace::access`. The event has
//! no parent span, so a format that prints spans does not repeat its fields, and OpenTelemetry's request span does not
//! contain a copy.

use std::time::Duration;

use http::{Method, Request, Uri, Version};
use tokio::time::Instant;
use tower_stream_core::{Exchange, StreamEnd, matched_route};
use tracing::{Level, level_filters::LevelFilter};

use crate::request::Seen;

/// The target of the event for a response.
const TARGET: &str = "tower_stream_trace::access";
/// The target of the event for a chunk.
const CHUNK_TARGET: &str = "tower_stream_trace::access::chunk";

bitflags::bitflags! {
    /// The fields of the event for a response.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AccessFields: u16 {
        /// `method`: the request method.
        const METHOD = 1;
        /// `route`: the template that axum's router matched. Requires the feature `axum`, and the layer inside of the
        /// router.
        const ROUTE = 1 << 1;
        /// `path`: the path of the request target, without the query.
        const PATH = 1 << 2;
        /// `protocol`: `HTTP/1.1` or `HTTP/2.0`.
        const PROTOCOL = 1 << 3;
        /// `status`: the response status. A request that was dropped before its response head has none.
        const STATUS = 1 << 4;
        /// `outcome`: `complete`, `aborted`, `error` or `panic`; and `error.type` unless it is `complete`.
        const OUTCOME = 1 << 5;
        /// `error`: why the response failed, or that it was dropped.
        const ERROR = 1 << 6;
        /// `chunks`: number of data frames.
        const CHUNKS = 1 << 7;
        /// `bytes`: total size of the data frames, as they pass this layer.
        const BYTES = 1 << 8;
        /// `first_chunk_ms`: from the call to the first data frame, in milliseconds.
        const FIRST_CHUNK = 1 << 9;
        /// `duration_ms`: from the call to the end of the response, in milliseconds.
        const DURATION = 1 << 10;
        /// `request_id`.
        const REQUEST_ID = 1 << 11;
    }
}

/// Logs exactly one event at the end of each response, also if the response is dropped, panics, is refused by a layer
/// inside, or is ended by a drain.
///
/// By default it is at level INFO, with all [`AccessFields`]. If no subscriber wants events of that level, a request
/// costs one check.
///
/// If the level TRACE is enabled for the target `tower_stream_trace::access::chunk`, each data frame is also logged,
/// with `chunk_seq` (from 0), `wire_size_bytes` and `request_id`.
///
/// ```
/// use tower_stream_trace::{RequestSpanLayer, access::{AccessFields, AccessLog}};
/// use tracing::Level;
///
/// let log = AccessLog::new().level(Level::DEBUG).fields(AccessFields::all() - AccessFields::PATH);
/// let layer = RequestSpanLayer::new().access_log(log);
/// # let _ = layer;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct AccessLog {
    level: Option<Level>,
    fields: AccessFields,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self::new()
    }
}

impl AccessLog {
    /// The default: level INFO, with all fields.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            level: Some(Level::INFO),
            fields: AccessFields::all(),
        }
    }

    /// Logs nothing.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            level: None,
            fields: AccessFields::empty(),
        }
    }

    /// Sets the level. Default: INFO.
    #[must_use]
    pub const fn level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// Sets the fields. Default: all.
    #[must_use]
    pub const fn fields(mut self, fields: AccessFields) -> Self {
        self.fields = fields;
        self
    }
}

/// Logs at a level that is only known at run time: each level needs a callsite of its own.
macro_rules! event_at {
    ($level:expr, $($fields:tt)*) => {
        match $level {
            Level::ERROR => tracing::error!(target: TARGET, parent: None, $($fields)*),
            Level::WARN => tracing::warn!(target: TARGET, parent: None, $($fields)*),
            Level::INFO => tracing::info!(target: TARGET, parent: None, $($fields)*),
            Level::DEBUG => tracing::debug!(target: TARGET, parent: None, $($fields)*),
            Level::TRACE => tracing::trace!(target: TARGET, parent: None, $($fields)*),
        }
    };
}

/// The data for the event of one response.
#[derive(Debug)]
pub(crate) struct Line {
    level: Level,
    fields: AccessFields,
    /// How many characters of a value are logged that a client sends.
    value_limit: usize,
    method: Method,
    uri: Uri,
    route: Option<Box<str>>,
    version: Version,
    /// Whether a subscriber wants an event for each chunk.
    chunks: bool,
    ended: Option<Instant>,
}

impl Line {
    /// Returns `None` if no subscriber wants events of its level.
    ///
    /// `event_enabled!` would be more precise, but must not be called here: if layers of a `tracing-subscriber` have
    /// filters of their own, their answers are stored on the thread for the event that is expected to follow, and
    /// another event would be lost.
    #[inline]
    pub(crate) fn begin<B>(
        log: AccessLog,
        value_limit: usize,
        request: &Request<B>,
    ) -> Option<Box<Self>> {
        let level = log.level?;
        (level <= LevelFilter::current()).then(|| {
            Box::new(Self {
                level,
                fields: log.fields,
                value_limit,
                method: request.method().clone(),
                uri: request.uri().clone(),
                route: matched_route(request.extensions()).map(Box::from),
                version: request.version(),
                chunks: Level::TRACE <= LevelFilter::current(),
                ended: None,
            })
        })
    }

    #[inline]
    pub(crate) fn chunk(&self, index: i64, length: usize, exchange: &Exchange) {
        if self.chunks {
            log_chunk(index, length, exchange);
        }
    }

    /// Called when the response ends.
    pub(crate) fn latched(&mut self) {
        self.ended = Some(Instant::now());
    }

    pub(crate) fn write(&self, end: &StreamEnd, seen: &Seen, exchange: &Exchange) {
        let has = |field| self.fields.contains(field);
        let ended = self.ended.unwrap_or_else(Instant::now);
        let error = match end {
            StreamEnd::Complete => None,
            StreamEnd::Failed(cause) => Some(cause.message()),
            StreamEnd::Dropped => Some(DROPPED),
        };
        let cut = |text| crate::request::cut(text, self.value_limit);
        event_at!(
            self.level,
            method = has(AccessFields::METHOD).then(|| cut(self.method.as_str())),
            route = self.route.as_deref().filter(|_| has(AccessFields::ROUTE)),
            path = has(AccessFields::PATH).then(|| cut(self.uri.path())),
            protocol = has(AccessFields::PROTOCOL).then(|| tracing::field::debug(self.version)),
            status = seen.status.filter(|_| has(AccessFields::STATUS)).map(|status| status.as_u16()),
            outcome = has(AccessFields::OUTCOME).then(|| end.outcome().as_str()),
            error.type = end.error_type().filter(|_| has(AccessFields::OUTCOME)),
            error = error.filter(|_| has(AccessFields::ERROR)),
            chunks = has(AccessFields::CHUNKS).then_some(seen.chunks),
            bytes = has(AccessFields::BYTES).then_some(seen.bytes),
            first_chunk_ms = seen.to_first.filter(|_| has(AccessFields::FIRST_CHUNK)).map(milliseconds),
            duration_ms = has(AccessFields::DURATION).then(|| milliseconds(ended - seen.called)),
            request_id = exchange.request_id().filter(|_| has(AccessFields::REQUEST_ID)).map(tracing::field::display),
            "response"
        );
    }
}

const DROPPED: &str = "dropped before its end, most likely because the client disconnected";

#[cold]
fn log_chunk(index: i64, length: usize, exchange: &Exchange) {
    tracing::trace!(
        target: CHUNK_TARGET,
        parent: None,
        chunk_seq = index,
        wire_size_bytes = length,
        request_id = exchange.request_id().map(tracing::field::display),
        "chunk"
    );
}

/// Rounded to three decimals, for human readers.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
