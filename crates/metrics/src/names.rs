//! The names of instruments and attributes, for views, dashboards and alerts.
//!
//! Prometheus replaces `.` by `_` and appends the unit: `http_server_response_chunk_gap_seconds`.

/// Histogram, seconds: from the call to the first chunk.
pub const TIME_TO_FIRST_CHUNK: &str = "http.server.response.time_to_first_chunk";
/// Histogram, seconds: from one chunk to the next.
pub const CHUNK_GAP: &str = "http.server.response.chunk.gap";
/// Histogram, seconds: from the poll for a chunk until the chunk is ready.
pub const CHUNK_PRODUCER_WAIT: &str = "http.server.response.chunk.producer_wait";
/// Histogram, seconds: from a chunk until the server polls for the next one.
pub const CHUNK_CONSUMER_HOLD: &str = "http.server.response.chunk.consumer_hold";
/// Histogram, seconds: from the call to the end of the body.
pub const STREAM_DURATION: &str = "http.server.response.stream.duration";
/// Up-down counter: responses between the call and the end of the body.
pub const STREAM_ACTIVE: &str = "http.server.response.stream.active";
/// Counter: responses that have ended.
pub const STREAM_COUNT: &str = "http.server.response.stream.count";
/// Counter: heartbeats that were written into idle streams. They are not chunks: no gap ends with one.
pub const HEARTBEATS: &str = "http.server.response.heartbeats";
/// Histogram, bytes: size of the body.
pub const BODY_SIZE: &str = "http.server.response.body.size";
/// Histogram, seconds: from the call to the end of the body. Named by OpenTelemetry's HTTP convention.
pub const REQUEST_DURATION: &str = "http.server.request.duration";
/// Up-down counter: requests between the call and the end of the body. Named by OpenTelemetry's HTTP convention.
pub const ACTIVE_REQUESTS: &str = "http.server.active_requests";

/// The request method, or `_OTHER` if OpenTelemetry's convention does not list it.
pub const METHOD: &str = "http.request.method";
/// The route template, or [`UNMATCHED`].
pub const ROUTE: &str = "http.route";
/// The status code. Absent if there was no response.
pub const STATUS: &str = "http.response.status_code";
/// `http` or `https`, see [`StreamMetricsLayer::scheme`](crate::StreamMetricsLayer::scheme).
pub const SCHEME: &str = "url.scheme";
/// The HTTP version: `1.0`, `1.1`, `2` or `3`.
pub const PROTOCOL_VERSION: &str = "network.protocol.version";
/// The name of the gRPC status, `OK` included. Absent if the response has none.
pub const RPC_STATUS: &str = "rpc.response.status_code";
/// `complete`, `aborted`, `error` or `panic`.
pub const OUTCOME: &str = "outcome";
/// Why a stream did not complete.
pub const ERROR_TYPE: &str = "error.type";
/// The power of two at or below the index of the chunk, at most 2048. Only the first 80 routes have it: for 1000 routes
/// it would need 12,000 series, and the SDK keeps 2000.
pub const INDEX_BUCKET: &str = "chunk.index_bucket";
/// The route of a request that matched no route. The path is not used, because the client chooses it.
pub const UNMATCHED: &str = "_unmatched";
/// The method of a request if OpenTelemetry's convention does not list it.
pub use tower_stream_core::OTHER_METHOD;
