//! Log lines on stderr; stdout is used only for the line with the addresses.

use std::io;

use tower_stream_errors::PanicHook;
use tower_stream_ids::log::{self, RequestLog};
use tracing_subscriber::{
    Layer,
    filter::{Targets, filter_fn},
    fmt,
    prelude::*,
    registry,
};

use crate::{LogFormat, Traces};

/// Installs the process's subscriber: log lines with the ids of their request, and `traces`. Also installs a panic hook
/// that records where a panic occurred, so that a layer that catches the panic can log the place. `RUST_LOG` filters
/// the lines by level and target, as in `warn,demo_server=debug`; the default is `info`.
///
/// # Errors
///
/// Fails if `RUST_LOG` is not a valid filter, or if a subscriber is already installed.
pub fn install(
    format: LogFormat,
    traces: &Traces,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    PanicHook::new().log(true).install();
    let text = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = filter(&text).map_err(|error| format!("RUST_LOG={text}: {error}"))?;
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

/// Not `EnvFilter`, which also selects by span and field, and whose regular expressions are a tenth of the build.
fn filter(text: &str) -> Result<Targets, Box<dyn std::error::Error + Send + Sync>> {
    if text.contains('[') {
        return Err("a filter is a level or TARGET=LEVEL, it cannot select spans or fields".into());
    }
    let directives = text.split(',').map(str::trim);
    let directives: Vec<_> = directives.filter(|text| !text.is_empty()).collect();
    Ok(match directives.is_empty() {
        true => Targets::new().with_default(tracing::Level::INFO),
        false => directives.join(",").parse()?,
    })
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_filter_is_levels_and_targets() {
        for text in ["", " ", "info", "INFO,"] {
            let filter = filter(text).unwrap();
            assert!(filter.would_enable("any", &Level::INFO), "{text}");
            assert!(!filter.would_enable("any", &Level::DEBUG), "{text}");
        }
        let filter = filter("warn, demo_server=debug").unwrap();
        assert!(filter.would_enable("demo_server::log", &Level::DEBUG));
        assert!(!filter.would_enable("hyper", &Level::INFO));
    }

    #[test]
    fn a_filter_that_cannot_be_used_is_an_error() {
        for text in [
            "demo_server=loud",
            "a=b=c",
            "[request]=debug",
            "a[{b}]=info",
        ] {
            assert!(filter(text).is_err(), "{text}");
        }
    }
}
