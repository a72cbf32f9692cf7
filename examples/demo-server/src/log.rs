//! Log lines, on stderr: stdout belongs to the line that names the addresses.

use std::io;

use tower_stream_errors::PanicHook;
use tracing_subscriber::EnvFilter;

use crate::LogFormat;

/// Installs the process's subscriber, and a panic hook that lets the log name the place of a panic that a layer caught.
/// `RUST_LOG` filters; without it, `info`.
///
/// # Errors
///
/// When `RUST_LOG` cannot be read as a filter, or a subscriber is already installed.
pub fn install(format: LogFormat) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    PanicHook::new().install();
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) => {
            EnvFilter::try_new(&text).map_err(|error| format!("RUST_LOG={text}: {error}"))?
        }
        Err(_) => EnvFilter::new("info"),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .try_init(),
    }
}
