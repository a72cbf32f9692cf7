//! A load generator that knows streams.
//!
//! A request-per-second tool counts a response as good when its head says `200`. A stream can fail minutes after that.
//! This one follows each response to its last byte and says how it ended ([`Ending`]), when its first chunk came, and
//! how long the gaps between chunks were. It speaks HTTP/1.1 and cleartext HTTP/2, reads SSE, JSON lines and plain
//! bytes, and checks digests that the server announces. Thresholds turn the figures into an exit code.
//!
//! ```sh
//! stream-load -n 200 --duration 30s 'http://127.0.0.1:3000/events?count=50&interval_ms=20'
//! ```
//!
//! The same as a library:
//!
//! ```no_run
//! use clap::Parser;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), stream_load::UsageError> {
//! let args = stream_load::Args::parse_from(["stream-load", "--total", "100", "http://127.0.0.1:3000/events"]);
//! let report = stream_load::run(&args).await?;
//! assert!(report.verdict().is_pass(), "{report}");
//! # Ok(()) }
//! ```
//!
//! [`Load`] is for tests that do something to the server meanwhile: it can be watched ([`Watch`]), sent elsewhere and
//! stopped.

mod args;
mod client;
mod digests;
mod ending;
mod records;
mod report;
mod request;
mod run;
mod stream;
mod tally;
mod watch;

pub use self::{
    args::{Args, Format, Http, Output, Percent, UsageError},
    ending::Ending,
    report::{Report, Verdict},
    run::{Load, Running, run},
    watch::{Stream, Watch},
};
