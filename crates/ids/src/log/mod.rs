//! The ids on every log line (feature `log`).
//!
//! Each `tracing` event of a request draws the next number of the request's [`Sequence`], so that its log lines and
//! its chunks have one order. [`RequestLog`] is the `tracing-subscriber` layer that numbers; [`json`] and [`text`] are
//! formats for the stock `fmt` layer that print `request_id` and `sequence_id` flat, on the line itself; [`otel`]
//! (feature `opentelemetry`) puts both on OpenTelemetry log records. However many of them a process has, an event has
//! one number, and the layers may stand in any order.
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
//!     // {"timestamp":"..","level":"INFO","request_id":"order-17","sequence_id":1,"target":"..","message":"exported","rows":3}
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
//! What a client sends ends up in fields and messages. Neither format lets it begin a line or look like another
//! field: JSON strings are escaped, including the characters that some readers take for line ends (U+0085, U+2028,
//! U+2029) and those that change what a terminal shows; the text format quotes every value that is not plain, and a
//! message that has a `=` or a quote in it.
//!
//! [`Sequence`]: crate::Sequence

/// What can be chosen of either format.
macro_rules! options {
    ($format:ident) => {
        impl<T> $format<T> {
            /// Where the time comes from; `()` leaves it out.
            #[must_use]
            pub fn with_timer<U: FormatTime>(self, timer: U) -> $format<U> {
                $format {
                    timer,
                    target: self.target,
                    spans: self.spans,
                }
            }

            /// Whether to print the event's target: usually the module it is logged from.
            #[must_use]
            pub fn with_target(mut self, target: bool) -> Self {
                self.target = target;
                self
            }

            /// Whether to print the spans that the event is in.
            #[must_use]
            pub fn with_spans(mut self, spans: bool) -> Self {
                self.spans = spans;
                self
            }
        }
    };
}

mod escape;
mod json;
mod number;
#[cfg(feature = "opentelemetry")]
pub mod otel;
mod text;

pub use self::{
    json::{Json, json},
    number::RequestLog,
    text::{Text, TextFields, text},
};

#[cfg(test)]
mod tests;
