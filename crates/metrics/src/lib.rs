//! OpenTelemetry metrics of streaming HTTP responses, as a Tower layer.
//!
//! A request's duration, as middleware usually measures it, is the time to the response *head*. Of a stream that says
//! nothing: it may give its first chunk a second later, stall in the middle, or be cut after a minute, all under
//! `200 OK`. [`StreamMetricsLayer`] follows each response until its body has really ended, and records when chunks came
//! and how the stream ended.
//!
//! # Example
//!
//! ```
//! use axum::{Router, body::Body, routing::get};
//! use opentelemetry::metrics::MeterProvider;
//! use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
//! use tower::ServiceExt;
//! use tower_stream_metrics::StreamMetricsLayer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // any exporter: this one keeps everything in memory
//! let exporter = InMemoryMetricExporter::default();
//! let reader = PeriodicReader::builder(exporter.clone()).build();
//! let provider = SdkMeterProvider::builder().with_reader(reader).build();
//!
//! let app: Router = Router::new()
//!     .route("/hello/{name}", get(|| async { "hello" }))
//!     .layer(StreamMetricsLayer::new(&provider.meter("my-service")));
//!
//! let request = http::Request::get("/hello/world").body(Body::empty())?;
//! let response = app.oneshot(request).await?;
//! axum::body::to_bytes(response.into_body(), usize::MAX).await?;
//!
//! provider.force_flush()?;
//! let exported = format!("{:?}", exporter.get_finished_metrics()?);
//! assert!(exported.contains("http.server.response.stream.count"));
//! assert!(exported.contains("/hello/{name}") && !exported.contains("world"));
//! # Ok(()) }
//! ```
//!
//! # What is recorded
//!
//! | instrument | kind | when | attributes |
//! |---|---|---|---|
//! | `http.server.response.time_to_first_chunk` | histogram, s | first chunk | method, route, status |
//! | `http.server.response.chunk.gap` | histogram, s | each further chunk | route, `chunk.index_bucket` |
//! | `http.server.response.chunk.producer_wait` | histogram, s | each chunk, [opt-in](StreamMetricsLayer::producer_wait) | route |
//! | `http.server.response.chunk.consumer_hold` | histogram, s | each chunk, [opt-in](StreamMetricsLayer::consumer_hold) | route |
//! | `http.server.response.stream.duration` | histogram, s | end | method, route, status, `outcome` |
//! | `http.server.response.stream.active` | up-down counter | call and end | route |
//! | `http.server.response.stream.count` | counter | end | route, `outcome`, `error.type`, `rpc.response.status_code` of gRPC |
//! | `http.server.response.body.size` | histogram, By | end, if there was a head | those of the convention |
//! | `http.server.request.duration` | histogram, s | end | those of the convention |
//! | `http.server.active_requests` | up-down counter | call and end | method, `url.scheme` |
//!
//! Method, route and status are `http.request.method`, `http.route` and `http.response.status_code` of the OpenTelemetry
//! HTTP convention. The last three instruments are those that the convention itself names, for dashboards that exist: their
//! attributes are method, route, status, `url.scheme`, `network.protocol.version` and `error.type`, which is the status for
//! a 5xx that was sent whole. All names are in [`names`].
//!
//! Handles of other layers register what they count on the same meter: `Drain::observe`, `RequestIdLayer::observe`,
//! `DigestLayer::observe`, `VerifyDigestLayer::observe` (feature `metrics` of their crates) and `Loss::observe`. With the
//! feature `prometheus`, `Prometheus` is a meter and the service for `/metrics`.
//!
//! * A **chunk** is a data frame with data in it. Chunk 0 is timed from the call; `chunk.index_bucket` of a later one is
//!   the power of two at or below its index, at most 2048: twelve values, whatever the length of a stream.
//! * The **outcome** is `complete`, `aborted` (the client left, or a drain ended the stream), `error` or `panic`, exactly
//!   one for each call: also for a handler future that is dropped before the head, for a body that is never polled, and
//!   for a service that fails. `error.type` is there unless it is `complete`. It says how the *stream* ended: a `500` whose
//!   body was sent is complete. A gRPC response whose status is not 0 is an `error` whose type is the name of the status
//!   (`NOT_FOUND`), as OpenTelemetry's RPC conventions have it.
//! * **Active** falls when the body has ended and was dropped. For an upgrade (101, or 2xx to CONNECT) that is at the head.
//! * A response whose body is not sent (HEAD, 204, 304, ..) is complete, of 0 bytes and without a first chunk.
//!
//! # Cardinality
//!
//! No attribute is taken from what a client may choose. The **route** is axum's `MatchedPath` (feature `axum`, on by
//! default), so the layer has to stand inside the router, as `Router::layer` puts it, or what
//! [`StreamMetricsLayer::route`] returns; every other request has one fixed label, [`names::UNMATCHED`]. An unknown method
//! is `_OTHER`. The gap histogram is the largest, with at most 12 series of 17 buckets for each route that streams.
//!
//! # Cost
//!
//! A frame costs one clock reading and one histogram record (two clock readings and three records with everything on), no
//! allocation and no lock of ours. `benches/frames.rs` prints what that is on your machine, and what it is with
//! `StreamMetricsLayer::bound` (feature `bound-instruments`).

mod instruments;
mod layer;
pub mod names;
#[cfg(feature = "prometheus")]
mod prometheus;
mod route;
mod stream;

pub use self::layer::StreamMetricsLayer;
#[cfg(feature = "prometheus")]
pub use self::prometheus::Prometheus;

#[cfg(test)]
mod tests;
