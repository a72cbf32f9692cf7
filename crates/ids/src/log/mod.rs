//! The ids on every log line (feature `log`).
//!
//! Each `tracing` event of a request takes the next number of the request's [`Sequence`], so that its log lines and its
//! chunks have one order. [`RequestLog`] is the `tracing-subscriber` layer that assigns the numbers. [`json`] and
//! [`text`] are the formats of `tracing-subscriber`'s own `fmt` layer with `request_id` and `sequence_id` at the end of
//! the line. [`otel`] (feature `opentelemetry`) adds both to OpenTelemetry log records. An event has one number in all
//! of them, and the layers may be added in any order.
//!
//! ```
//! use std::io;
//! use tower_stream_ids::{RequestScope, Sequence, log};
//! use tracing_subscriber::{fmt, layer::SubscriberExt};
//!
//! let subscriber = tracing_subscriber::registry()
//!     .with(log::RequestLog::new())
//!     .with(fmt::layer().json().event_format(log::json()).with_writer(io::stderr));
//! # let request = RequestScope::new("order-17".parse().unwrap(), Sequence::new());
//! tracing::subscriber::with_default(subscriber, || {
//!     // in a handler under `RequestIdLayer`, this scope is already entered
//!     request.run(|| tracing::info!(rows = 3, "exported"));
//!     // {"timestamp":"..","level":"INFO","message":"exported","rows":3,"target":"..","request_id":"order-17","sequence_id":1}
//! });
//! ```
//!
//! # The request of a line
//!
//! A line belongs to the request whose [`RequestScope`](crate::RequestScope) is entered on this thread; otherwise to
//! the one in which the event's span, or a parent of that span, was created. The scope does not depend on spans, so it
//! works when a filter has disabled the request's span. The span works on a task or thread of its own.
//!
//! # Untrusted values
//!
//! Fields and messages contain values that a client sent. No value can start a line: characters that some reader takes
//! for a line end, or that change a terminal, are escaped ([`WithIds`]). No value can replace the ids, which end the
//! line. In JSON, no value looks like another field either. In text it can, because `tracing-subscriber` writes a
//! message, and a field recorded with `%`, without quotes: use JSON for logs that a program parses.
//!
//! [`Sequence`]: crate::Sequence

mod format;
mod number;
#[cfg(feature = "opentelemetry")]
pub mod otel;

pub use self::{
    format::{WithIds, json, text},
    number::RequestLog,
};

#[cfg(test)]
mod tests;
