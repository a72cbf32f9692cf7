//! Tower layers for **streaming** HTTP responses.
//!
//! Ordinary middleware believes that a response is over when its head is returned. A stream lives on for minutes: it can
//! fail after `200 OK`, be cut by a deploy, a slow reader or a panic, and whoever reads it must be able to tell a whole
//! stream from a broken one. Each layer here follows a response until its body has really ended, and says truthfully how.
//!
//! # Start
//!
//! [`StreamStack`] is all layers in the order that works. Three lines make an axum app traced, drained, id-carrying and
//! panic-safe:
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tower_stream::prelude::*;
//!
//! # #[cfg(feature = "full")]
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let app = Router::new().route("/", get(|| async { "hello" }));
//!
//!     let drain = Drain::builder().build();
//!     let app = app.layer(StreamStack::new().drain(&drain));
//!     let report = drain.serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?;
//!
//!     println!("{report:?}");
//!     Ok(())
//! }
//! # #[cfg(not(feature = "full"))]
//! # fn main() {}
//! ```
//!
//! What was on by default there: a request id for each request, a tracing span to the end of each body, chunk spans from
//! the global OpenTelemetry tracer (nothing is done until you install one), a drain on SIGTERM, and an error writer that
//! turns every panic and every body error into one well-formed ending. Metrics need a meter, digests and stamped records
//! change what is sent: add those with [`StreamStack::metrics`], [`StreamStack::digest`], [`StreamStack::verify`] and
//! [`StreamStack::sequence`].
//!
//! # Which layer goes where, and why
//!
//! Outermost first; this is what [`StreamStack`] builds. A layer of your own that may end a stream (a timeout, a limit)
//! goes inside the error writer.
//!
//! | layer | feature | why there |
//! |---|---|---|
//! | `ids::RequestIdLayer` | `ids` | first, so that everything after it can name the request |
//! | `trace::RequestSpanLayer` | `trace` | knows the id; spans all that the other layers do and log |
//! | `metrics::StreamMetricsLayer` | `metrics` | counts what was really answered, refusals of the drain included |
//! | `drain::DrainLayer` | `drain` | admits, counts and closes outside of whatever may replace a head or write a tail, so that an error document closes its connection too and the count falls only after the tail |
//! | `digest::DigestLayer` | `digest` | the digest of what is sent: outside of all that changes bytes |
//! | *compression*, in a [`CompressionSlot`] | yours | outside of the error writer, or a compressed stream could not be given its last record |
//! | `errors::ErrorWriterLayer` | `errors` | outside of all that fails with `Err`, so that a farewell, a timeout, a digest mismatch and a handler's own error become one well-formed ending |
//! | `drain::FarewellLayer` | `drain` | ends streams at the drain's deadline, on a record boundary |
//! | `trace::ChunkSpanLayer` | `trace` | sees the chunks as the handler cut them |
//! | `ids::SequenceLayer` | `ids` | stamps records before anything holds them |
//! | `digest::VerifyDigestLayer` | `digest` | checks the handler's own bytes: inside of all that changes them |
//! | *your handler* | | |
//!
//! Spans, metrics and logs name the same outcome in **every** order: the layers tell each other why a stream failed (see
//! [`core::Exchange`]). The order above is about what can still be written to a client.
//!
//! # One crate a layer
//!
//! Each module here is a crate of its own that works alone and depends on no other layer. Take them singly, or take this
//! crate with the features that you need; `full` is the default, without `otlp`.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod prelude;
mod slot;
mod stack;

pub use slot::{
    AfterEncoding, AfterEncodingFuture, BeforeEncoding, BeforeEncodingFuture, CompressionSlot,
    EncodedBody, PlainBody,
};
pub use stack::{InnerStack, OuterStack, Stacked, StreamStack};
pub use tower_stream_core as core;
#[cfg(feature = "digest")]
pub use tower_stream_digest as digest;
#[cfg(feature = "drain")]
pub use tower_stream_drain as drain;
#[cfg(feature = "errors")]
pub use tower_stream_errors as errors;
#[cfg(feature = "ids")]
pub use tower_stream_ids as ids;
#[cfg(feature = "metrics")]
pub use tower_stream_metrics as metrics;
#[cfg(feature = "trace")]
pub use tower_stream_trace as trace;
