//! Names of the attributes that this crate writes, in one place.
//!
//! Those of the HTTP server conventions of OpenTelemetry (stable) are not repeated here.

/// The default name of a chunk span.
pub const CHUNK_SPAN: &str = "http.server.response.chunk";

/// Index of the chunk in its stream, from 0 (int).
pub const CHUNK_INDEX: &str = "chunk.index";
/// Length of the chunk in bytes (int).
pub const CHUNK_LENGTH: &str = "chunk.length";
/// How long the server waited for the body to give the chunk: the duration of its span (double, seconds).
pub const CHUNK_PRODUCER_WAIT: &str = "chunk.producer_wait";
/// How long the chunk was held until the server asked for the next (double, seconds).
///
/// The server buffers, so it is only a proxy for how fast the peer reads: it stays near zero until the buffers of
/// server and kernel are full (a few megabytes), then it is the peer's own pace.
pub const CHUNK_CONSUMER_HOLD: &str = "chunk.consumer_hold";
/// The request id when the request has one, the trace id otherwise (string).
pub const STREAM_ID: &str = "stream.id";
/// The number of the chunk in the order that it shares with the log lines of its request (int).
pub const SEQUENCE_ID: &str = "sequence_id";

/// The event of a chunk span when [`ChunkSpanLayer::with_event`](crate::ChunkSpanLayer::with_event) asks for it.
pub const CHUNK_EVENT: &str = "chunk_emitted";
/// When the chunk was given out, in microseconds since the Unix epoch (int); on [`CHUNK_EVENT`].
pub const TIMESTAMP_US: &str = "timestamp_us";

/// On the request span: how many chunks got no span, because the selection left them out (int).
pub const CHUNK_SPANS_SKIPPED: &str = "stream.chunk_spans_skipped";
/// On the request span: `complete`, `aborted`, `error` or `panic` (string).
pub const STREAM_OUTCOME: &str = "stream.outcome";
/// On the request span: how many data frames the body gave, heartbeats not counted (int).
pub const STREAM_CHUNKS: &str = "stream.chunks";
/// On the request span: how many heartbeats were written into the body; absent when there was none (int).
pub const STREAM_HEARTBEATS: &str = "stream.heartbeats";
/// On the request span: milliseconds from the call to the first data frame (double).
pub const STREAM_TTFC_MS: &str = "stream.ttfc_ms";
/// On the request span: the request id (string).
pub const REQUEST_ID: &str = "request_id";

/// Seconds from the call to the first chunk; on the first chunk span and the request span of a token stream (double).
///
/// The GenAI conventions (in development) have this name for a metric; as an attribute of a span it is ours.
pub const GEN_AI_TIME_TO_FIRST_TOKEN: &str = "gen_ai.server.time_to_first_token";
/// Seconds since the chunk before; on every later chunk span of a token stream (double). A metric's name too.
pub const GEN_AI_TIME_PER_OUTPUT_TOKEN: &str = "gen_ai.server.time_per_output_token";
