//! Log lines on stderr; stdout is used only for the line with the addresses.

use std::io;

use tower_stream_errors::PanicHook;
use tower_stream_ids::log::{self, RequestLog};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, fmt, prelude::*, registry};

use crate::{LogFormat, Traces};

/// Installs the process's subscriber: log lines with the ids of their request, and `traces`. Also installs a panic hook
/// that records where a panic occurred, so that a layer that catches the panic can log the place. `RUST_LOG` filters
/// the lines; the default is `info`.
///
/// # Errors
///
/// Fails if `RUST_LOG` is not a valid filter, or if a subscriber is already installed.
pub fn install(
    format: LogFormat,
    traces: &Traces,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    PanicHook::new().log(true).install();
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) => {
            EnvFilter::try_new(&text).map_err(|error| format!("RUST_LOG={text}: {error}"))?
        }
        Err(_) => EnvFilter::new("info"),
    };
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Json => lines.json().event_format(log::json()).boxed(),
        LogFormat::Text => lines
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .event_format(log::text())
            .boxed(),
    };
    // Log no spans: those of a request would repeat its attributes on each of its lines.
    let events = filter_fn(|metadata| metadata.is_event());
    registry()
        .with(lines.with_filter(filter).with_filter(events))
        .with(RequestLog::new())
        .with(traces.layer())
        .try_init()?;
    Ok(())
}
