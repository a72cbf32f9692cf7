//! `stream-load`: see `stream-load --help`.

use std::{io::Write, process::ExitCode};

use clap::{CommandFactory, Parser, error::ErrorKind};
use stream_load::{
    Args, Load, Output, Report, UsageError,
    doctor::{DoctorArgs, examine},
};

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == "doctor") {
        arguments.remove(1);
        return doctor(DoctorArgs::parse_from(arguments)).await;
    }
    let args = Args::parse_from(arguments);
    let output = args.output;
    let html = args.html.clone();
    let report = match load(args).await {
        Ok(report) => report,
        // `exit` prints the usage and exits with 2.
        Err(error) => Args::command()
            .error(ErrorKind::ValueValidation, error)
            .exit(),
    };
    if let Some(file) = html
        && let Err(error) = std::fs::write(&file, report.to_html())
    {
        let mut stderr = std::io::stderr().lock();
        let _ = writeln!(stderr, "error: {}: {error}", file.display());
        return ExitCode::from(2);
    }
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

async fn doctor(args: DoctorArgs) -> ExitCode {
    let diagnosis = match examine(&args).await {
        Ok(diagnosis) => diagnosis,
        Err(error) => {
            let mut stderr = std::io::stderr().lock();
            let _ = writeln!(stderr, "error: {error}");
            return ExitCode::from(2);
        }
    };
    let mut stdout = std::io::stdout().lock();
    let _ = match args.output {
        Output::Text => writeln!(stdout, "{diagnosis}"),
        Output::Json => writeln!(stdout, "{}", diagnosis.to_json()),
    };
    match diagnosis.has_fault() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
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
