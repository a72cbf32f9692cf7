//! A load generator that knows streams.
//!
//! A request-per-second tool counts a response as good when its head says `200`. A stream can fail minutes after that.
//! This one follows each response to its last byte and says how it ended ([`Ending`]), when its first chunk came, and
//! how long the gaps between chunks were. It speaks HTTP/1.1 and HTTP/2, in cleartext or over TLS (feature `tls`, on by default), reads SSE, JSON lines and plain
//! bytes, and checks digests that the server sends. Thresholds turn the figures into an exit code.
//!
//! ```sh
//! stream-load -n 200 --duration 30s 'http://127.0.0.1:3000/events?count=50&interval_ms=20'
//! ```
//!
//! # What the times are
//!
//! With `--rate`, stream `n` is due `n / rate` seconds after the start of the run. *Latency* is measured from then, and
//! *service time* from the actual start of the stream, before its connection. When a server pauses until all `--streams`
//! are open, the next streams begin late: their service time does not have the pause, their latency does (the service
//! time alone is the error that is known as coordinated omission). Streams that begin more than 10 ms late are reported
//! as behind schedule, and those that were due within `--duration` and did not begin as not begun. The rate is never
//! exceeded to catch up (by more than those 10 ms, which timers need), so one pause moves all later streams; more `--streams` keep the schedule. A generator that is
//! short of CPU falls behind too: then the times are those of the generator. Without `--rate` a
//! stream is due when it begins.
//!
//! # What fails a run
//!
//! More than the allowed share of streams that were cut, answered with 4xx or 5xx, or not answered; any stream that has not
//! ended when the run is over (`--max-running 100%` is for endless streams); and a run without a response head.
//!
//! # As a library
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
#[cfg(feature = "tls")]
mod tls;
mod watch;

pub use self::{
    args::{Args, Format, Http, Output, Percent, UsageError},
    ending::Ending,
    report::{Report, Verdict},
    run::{Load, Running, run},
    watch::{Stream, Watch},
};
