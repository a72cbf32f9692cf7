//! `stream-load`: see `stream-load --help`.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, error::ErrorKind};
use stream_load::{Args, Output};

#[tokio::main]
#[allow(clippy::print_stdout)] // the report is what the program is for
async fn main() -> ExitCode {
    let args = Args::parse();
    let report = match stream_load::run(&args).await {
        Ok(report) => report,
        // prints usage and exits with 2
        Err(error) => Args::command()
            .error(ErrorKind::ValueValidation, error)
            .exit(),
    };
    match args.output {
        Output::Text => println!("{report}"),
        Output::Json => println!("{}", report.to_json()),
    }
    if report.verdict().is_pass() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
