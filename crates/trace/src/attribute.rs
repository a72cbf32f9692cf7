//! Names of the attributes that this crate writes.
//!
//! The attributes of OpenTelemetry's stable HTTP server conventions are not repeated here.

/// The default name of a chunk span.
pub const CHUNK_SPAN: &str = "http.server.response.chunk";

/// Index of the chunk in its stream, from 0 (int).
pub const CHUNK_INDEX: &str = "chunk.index";
/// Length of the chunk in bytes (int).
pub const CHUNK_LENGTH: &str = "chunk.length";
/// How long the server waited for the chunk: the duration of its span (double, seconds).
pub const CHUNK_PRODUCER_WAIT: &str = "chunk.producer_wait";
/// How long the chunk was held until the server polled for the next one (double, seconds).
///
/// Because of buffering, this only approximates the speed of the client: it stays near zero until the buffers of the
/// server and the kernel are full (a few megabytes), and then follows the client's speed.
pub const CHUNK_CONSUMER_HOLD: &str = "chunk.consumer_hold";
/// The request id if the request has one, otherwise the trace id (string).
pub const STREAM_ID: &str = "stream.id";
/// The sequence number of the chunk, which shares one order with the log lines of its request (int).
pub const SEQUENCE_ID: &str = "sequence_id";

/// The event of a chunk span, with [`ChunkSpanLayer::with_event`](crate::ChunkSpanLayer::with_event).
pub const CHUNK_EVENT: &str = "chunk_emitted";
/// When the chunk was passed on, in microseconds since the Unix epoch (int); on [`CHUNK_EVENT`].
pub const TIMESTAMP_US: &str = "timestamp_us";

/// On the request span: number of chunks that were not selected, and so have no span (int).
pub const CHUNK_SPANS_SKIPPED: &str = "stream.chunk_spans_skipped";
/// On the request span: `complete`, `aborted`, `error` or `panic` (string).
pub const STREAM_OUTCOME: &str = "stream.outcome";
/// On the request span: number of data frames of the body, without heartbeats (int).
pub const STREAM_CHUNKS: &str = "stream.chunks";
/// On the request span: number of heartbeats in the body; absent if there were none (int).
pub const STREAM_HEARTBEATS: &str = "stream.heartbeats";
/// On the request span: milliseconds from the call to the first data frame (double).
pub const STREAM_TTFC_MS: &str = "stream.ttfc_ms";
/// On the request span: the request id (string).
pub const REQUEST_ID: &str = "request_id";

/// Seconds from the call to the first chunk; on the first chunk span and the request span of a token stream (double).
///
/// The GenAI conventions (in development) define this name for a metric, not for an attribute of a span.
pub const GEN_AI_TIME_TO_FIRST_TOKEN: &str = "gen_ai.server.time_to_first_token";
/// Seconds since the previous chunk; on every later chunk span of a token stream (double). Also the name of a metric.
pub const GEN_AI_TIME_PER_OUTPUT_TOKEN: &str = "gen_ai.server.time_per_output_token";
