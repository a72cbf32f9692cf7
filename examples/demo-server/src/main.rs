//! `demo-server`: see `--help`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use demo_server::{Args, Server, State, log};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = args.drain() {
        Args::command()
            .error(ErrorKind::ValueValidation, error)
            .exit();
    }
    match run(args).await {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "demo-server: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Exit codes: 0 when every stream ended or got its last event; 1 when one was aborted, or when the server could not
/// start.
async fn run(args: Args) -> Result<ExitCode, Box<dyn std::error::Error + Send + Sync>> {
    let format = args.log;
    let state = State::new(args)?;
    let traces = state.traces().clone();
    log::install(format, &traces)?;
    let server = Server::start_with(state).await?;
    // Before the addresses are printed: a program that reads them may send a signal at once.
    server.drain().listen_for_signals()?;
    announce(&server)?;
    let report = server.stopped().await?;
    tokio::task::spawn_blocking(move || traces.shutdown()).await?;
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Prints one machine-readable line on stdout.
fn announce(server: &Server) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "listening public={} admin={}",
        server.public(),
        server.admin_addr()
    )?;
    out.flush()
}
