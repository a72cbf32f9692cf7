//! `stream-load`: see `stream-load --help`.

use std::{io::Write, process::ExitCode};

use clap::{CommandFactory, Parser, error::ErrorKind};
use stream_load::{Args, Load, Output, Report, UsageError};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let output = args.output;
    let report = match load(args).await {
        Ok(report) => report,
        // prints usage and exits with 2
        Err(error) => Args::command()
            .error(ErrorKind::ValueValidation, error)
            .exit(),
    };
    // whoever reads may have seen enough (`| head -1`): the exit code is told all the same
    let mut stdout = std::io::stdout().lock();
    let _ = match output {
        Output::Text => writeln!(stdout, "{report}"),
        Output::Json => writeln!(stdout, "{}", report.to_json()),
    };
    if report.verdict().is_pass() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn load(args: Args) -> Result<Report, UsageError> {
    let mut running = Load::new(args)?.start().await?;
    tokio::select! {
        () = running.ended() => {}
        Ok(()) = tokio::signal::ctrl_c() => {}
    }
    Ok(running.finish().await)
}
