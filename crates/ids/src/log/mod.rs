//! The ids on every log line (feature `log`).
//!
//! Each `tracing` event of a request draws the next number of the request's [`Sequence`], so that its log lines and
//! its chunks have one order. [`RequestLog`] is the `tracing-subscriber` layer that numbers; [`json`] and [`text`] are
//! the formats of `tracing-subscriber`'s own `fmt` layer with `request_id` and `sequence_id` at the end of the line;
//! [`otel`] (feature `opentelemetry`) puts both on OpenTelemetry log records. However many of them a process has, an
//! event has one number, and the layers may stand in any order.
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
//!     // inside of a handler under `RequestIdLayer` this scope is entered already
//!     request.run(|| tracing::info!(rows = 3, "exported"));
//!     // {"timestamp":"..","level":"INFO","message":"exported","rows":3,"target":"..","request_id":"order-17","sequence_id":1}
//! });
//! ```
//!
//! # Whose line is it
//!
//! The request whose [`RequestScope`](crate::RequestScope) is entered on this thread; else the one in which the
//! event's span was created, or its parent. The first does not depend on spans, so it holds when a filter has
//! disabled the request's span; the second follows a span onto a task or thread of its own.
//!
//! # Hostile values
//!
//! What a client sends ends up in fields and messages. No value begins a line: characters that some reader takes for
//! a line end, or that change what a terminal shows, are escaped ([`WithIds`]). No value takes the place of the ids,
//! which end the line. In JSON no value looks like another field either. In text one can, for `tracing-subscriber`
//! writes a message, and a field that is recorded with `%`, without quotes: let programs read JSON.
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
