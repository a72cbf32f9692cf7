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
        // `exit` prints the usage and exits with 2.
        Err(error) => Args::command()
            .error(ErrorKind::ValueValidation, error)
            .exit(),
    };
    // Ignore a closed pipe (`| head -1`), so that the exit code still reports the result.
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
