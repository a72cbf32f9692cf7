//! Request ids and sequence numbers for streaming HTTP: on headers, records, log lines and outgoing calls.
//!
//! A stream lives for minutes, and what happens in it is told in many places: the bytes that the client has, log
//! lines of the server, spans, the services that it calls. These layers give each request one id, and what happens in
//! it one row of numbers, so that all of it can be put side by side:
//!
//! * [`RequestIdLayer`] takes the id of a request from its header or makes one, sends it back in the response header,
//!   and keeps it at hand for as long as the body streams;
//! * [`SequenceLayer`] numbers the chunks of the body, and stamps server-sent events and JSON lines;
//! * [`log`] puts `request_id` and `sequence_id` on every log line of the request, also on those of a body that is
//!   polled or dropped long after the handler returned;
//! * [`spawn`] and [`in_request`] take the request along to another task or thread;
//! * [`ForwardRequestIdLayer`] sends the id on to other services.
//!
//! # Example
//!
//! ```
//! use axum::{Router, body::Body, routing::get};
//! use http_body_util::BodyExt;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_stream_ids::{MakeUuidV7, RequestId, RequestIdLayer, SequenceLayer, spawn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! async fn handler(id: RequestId) -> ([(&'static str, &'static str); 1], String) {
//!     spawn(async { tracing::info!("this line carries the ids too") });
//!     ([("content-type", "text/event-stream")], format!("data: {id}\n\n"))
//! }
//!
//! let app = Router::new().route("/", get(handler)).layer(
//!     ServiceBuilder::new()
//!         .layer(RequestIdLayer::new().make(MakeUuidV7))
//!         .layer(SequenceLayer::new()),
//! );
//! let response = app.oneshot(http::Request::new(Body::empty())).await.unwrap();
//! let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
//! let body = response.into_body().collect().await.unwrap().to_bytes();
//! assert_eq!(body, format!("data: {id}\nid: 1\n\n"));
//! # }
//! ```
//!
//! # Order
//!
//! `RequestIdLayer` goes outermost, so that everything else can name the request. `SequenceLayer` goes inside of the
//! layers that look at chunks or compress them, and outside of one that checks the handler's own bytes.

mod forward;
mod layer;
#[cfg(feature = "log")]
pub mod log;
mod make;
#[cfg(feature = "metrics")]
mod observe;
mod scope;
mod sequence;
mod stage;

pub use tower_stream_core::{InvalidRequestId, RequestId, Sequence};
#[cfg(feature = "axum")]
pub use tower_stream_core::{MissingRequestId, MissingSequence};

#[cfg(feature = "tokio")]
pub use self::scope::spawn;
pub use self::{
    forward::{ForwardRequestId, ForwardRequestIdLayer},
    layer::{RequestIdLayer, Trust},
    make::{MakeRequestId, MakeUuidV4, MakeUuidV7},
    scope::{Entered, RequestScope, in_request},
    sequence::{EventId, FirstEvent, SequenceLayer, SequenceStage},
    stage::RequestIdStage,
};

#[cfg(test)]
mod tests;
