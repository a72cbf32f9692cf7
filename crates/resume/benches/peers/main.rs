//! The server and the clients of `tests/resume/peers/run`, which compares this crate with what others use for the same work:
//! `peers serve --log memory`, `peers load ...`. Without arguments, as `cargo bench` runs it, does nothing.
#![allow(missing_docs, clippy::print_stdout)]

mod ends;
mod load;
mod serve;

use clap::{Parser, Subcommand};
use rustix::time::{ClockId, clock_gettime};

#[derive(Debug, Parser)]
struct Args {
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,

    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Serves `/bare`, `/broadcast` and `/stream`, and prints its address
    Serve {
        /// `memory`, or the URL of a Redis or NATS server
        #[arg(long, default_value = "memory")]
        log: String,
    },
    /// Many readers of one stream: how late an event comes, and what it costs
    Fanout(load::Fanout),
    /// Many readings of a stream that is kept
    Replay(load::Replay),
    /// Clients whose connection is cut, and that come back
    Cut(ends::Cut),
    /// Clients that read at another server than the producer's
    Follow(ends::Follow),
}

/// Nanoseconds of the clock that all processes of the machine share.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

#[tokio::main]
async fn main() {
    let Some(what) = Args::parse().what else {
        println!("tests/resume/peers/run compares resumption with its peers");
        return;
    };
    match what {
        What::Serve { log } => serve::serve(&log).await,
        What::Fanout(args) => args.run().await,
        What::Replay(args) => args.run().await,
        What::Cut(args) => args.run().await,
        What::Follow(args) => args.run().await,
    }
}
