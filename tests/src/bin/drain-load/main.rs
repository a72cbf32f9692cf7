//! Measures the figures of the drain: `drain-load COMMAND --help`.
//!
//! Each command prints its results, and exits with 1 if a figure misses its target.

mod proxy;
mod race;
mod rolling;
mod streams;

use std::{
    env, fmt,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use stream_load::{Args, Load};

/// Measures over real sockets what a drain loses.
#[derive(Debug, Parser)]
#[command(name = "drain-load")]
enum Command {
    /// Busy keep-alive clients while one server after another shuts down; the control is a plain graceful shutdown
    Race(race::Options),
    /// Many event streams at the deadline of a demo server; some clients stall
    Farewell(streams::Options),
    /// Many event streams that a demo server ends early, one by one
    Early(streams::Options),
    /// Three demo servers behind nginx, haproxy or caddy, restarted one after another under load
    Rolling(rolling::Options),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of a command: lines to print, and the figures that missed their target.
#[derive(Debug, Default)]
struct Findings {
    passed: usize,
    missed: usize,
}

impl Findings {
    fn note(&self, text: impl fmt::Display) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{text}")
    }

    fn check(&mut self, holds: bool, figure: impl fmt::Display) -> io::Result<()> {
        let word = if holds { "ok" } else { "not ok" };
        self.passed += usize::from(holds);
        self.missed += usize::from(!holds);
        writeln!(io::stdout().lock(), "{word} - {figure}")
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut findings = Findings::default();
    let done = match Command::parse() {
        Command::Race(options) => race::run(&options, &mut findings).await,
        Command::Farewell(options) => streams::farewell(&options, &mut findings).await,
        Command::Early(options) => streams::early(&options, &mut findings).await,
        Command::Rolling(options) => rolling::run(&options, &mut findings).await,
    };
    if let Err(error) = done {
        let _ = writeln!(io::stderr(), "drain-load: {error}");
        return ExitCode::FAILURE;
    }
    match findings.missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// A load of `stream-load`, with its command line options.
fn load(url: &str, options: &[&str]) -> Result<Load, BoxError> {
    let args = ["stream-load", "--no-progress", url];
    Ok(Load::new(Args::try_parse_from(
        args.iter().chain(options),
    )?)?)
}

/// The demo server to run: `DEMO_BIN`, or the one beside this program.
fn demo() -> io::Result<tokio::process::Command> {
    let path = match env::var_os("DEMO_BIN") {
        Some(path) => path.into(),
        None => env::current_exe()?.with_file_name("demo-under-test"),
    };
    if !path.exists() {
        return Err(io::Error::other(format!(
            "no demo server at {}: build package e2e or set DEMO_BIN",
            path.display()
        )));
    }
    Ok(tokio::process::Command::new(path))
}
