//! Log lines, on stderr: stdout belongs to the line that names the addresses.

use std::io;

use tower_stream_errors::PanicHook;
use tower_stream_ids::log::{self, RequestLog};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, fmt, prelude::*, registry};

use crate::{LogFormat, Traces};

/// Installs the process's subscriber, log lines with the ids of their request and `traces` beside them, and a panic hook
/// that lets the log name the place of a panic that a layer caught. `RUST_LOG` filters the lines; without it, `info`.
///
/// # Errors
///
/// When `RUST_LOG` cannot be read as a filter, or a subscriber is already installed.
pub fn install(
    format: LogFormat,
    traces: &Traces,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    PanicHook::new().install();
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
    // the spans of a request would repeat its attributes on each of its lines
    let events = filter_fn(|metadata| metadata.is_event());
    registry()
        .with(lines.with_filter(filter).with_filter(events))
        .with(RequestLog::new())
        .with(traces.layer())
        .try_init()?;
    Ok(())
}
