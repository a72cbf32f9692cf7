//! Tracing for streaming responses: a request span that lives to the end of the body, and a span for each chunk.
//!
//! A tracing middleware that was made for short answers ends its span at the head, or leaves it open without a word on how the
//! body ended. Of a stream one then learns neither how long it took, nor that it broke, nor which chunk was late.
//!
//! * [`RequestSpanLayer`] opens a tracing span for the request. It is entered whenever the handler or the body runs or
//!   is dropped, carries OpenTelemetry's HTTP server attributes, and ends with the stream's outcome.
//! * [`ChunkSpanLayer`] adds an OpenTelemetry span for each chunk that its [`ChunkSelection`] takes: when the server
//!   asked for it, when it was ready, how long it was held. It stands under our request span or anybody's: tower-http's
//!   `TraceLayer`, any tracing span under tracing-opentelemetry, or a plain OpenTelemetry context.
//! * `loss` (feature `loss`) counts every span that is lost on the way to the exporter, exactly.
//! * `pipeline` (feature `otlp`) sets all of it up for an OTLP/HTTP receiver.
//!
//! # Example
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use opentelemetry::trace::TracerProvider;
//! use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_stream_trace::{ChunkSpanLayer, RequestSpanLayer};
//! use tracing_subscriber::layer::SubscriberExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let exporter = InMemorySpanExporter::default();
//! let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
//! let opentelemetry = tracing_opentelemetry::layer().with_tracer(provider.tracer("requests"));
//! let subscriber = tracing_subscriber::registry().with(opentelemetry);
//! let _default = tracing::subscriber::set_default(subscriber);
//!
//! let service = ServiceBuilder::new()
//!     .layer(RequestSpanLayer::new())
//!     .layer(ChunkSpanLayer::new(provider.tracer("chunks")))
//!     .service_fn(|_: Request<()>| async {
//!         Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from("hello"))))
//!     });
//! let response = service.oneshot(Request::new(())).await.unwrap();
//! response.into_body().collect().await.unwrap();
//!
//! let names: Vec<_> = exporter.get_finished_spans().unwrap().into_iter().map(|span| span.name).collect();
//! assert_eq!(names, ["http.server.response.chunk", "GET"]);
//! # }
//! ```
//!
//! # What it costs
//!
//! With no subscriber, or for a request that is not sampled, a frame costs [`ChunkSpanLayer`] the test of one flag: no
//! clock is read and nothing allocated. A sampled frame reads the clock twice; a span is built only when it is
//! selected, and costs one allocation. [`RequestSpanLayer`] enters a tracing span for each poll, whose price is
//! the subscriber's: under tracing-opentelemetry it falls to a third with context activation and idle tracking off,
//! which `pipeline::lean` does. `cargo bench -p tower-stream-trace --features otlp` prints the figures.

pub mod attribute;
mod chunk;
#[cfg(feature = "otlp")]
mod client;
mod clock;
#[cfg(feature = "loss")]
pub mod loss;
mod parent;
#[cfg(feature = "otlp")]
pub mod pipeline;
mod request;
#[cfg(test)]
mod testing;

pub use self::{
    chunk::{ChunkAttributes, ChunkSelection, ChunkSpanLayer},
    request::{ClientAddress, RemoteParent, RequestSpanLayer},
};
