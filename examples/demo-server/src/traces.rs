//! Exports spans to an OTLP receiver, if one is configured.

use std::{io, time::Duration};

use opentelemetry::{KeyValue, metrics::Meter};
use tower_stream_trace::{
    ChunkSpanLayer,
    pipeline::{Pipeline, PipelineError},
};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, registry::LookupSpan};

/// Time limit for exporting the last spans.
const FLUSH: Duration = Duration::from_secs(5);

/// The exporter of spans; without `--otlp`, none.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Pipeline>);

impl Traces {
    /// # Errors
    ///
    /// Fails if the exporter cannot be set up.
    pub(crate) fn new(otlp: Option<&str>) -> io::Result<Self> {
        let Some(url) = otlp else {
            return Ok(Self(None));
        };
        let pipeline = Pipeline::builder("demo-server")
            .endpoint(url)
            .resource([KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))])
            .build()
            .map_err(|error: PipelineError| io::Error::other(format!("--otlp {url}: {error}")))?;
        Ok(Self(Some(pipeline)))
    }

    /// Registers counters of exported and lost spans on `meter`.
    pub(crate) fn observe(&self, meter: &Meter) {
        if let Some(pipeline) = &self.0 {
            pipeline.loss().observe(meter);
        }
    }

    /// The layer that exports `tracing` spans.
    pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let pipeline = self.0.as_ref()?;
        // Has its own filter, so that `RUST_LOG` does not disable traces.
        Some(pipeline.layer().with_filter(LevelFilter::INFO))
    }

    /// Creates a span for each chunk.
    pub(crate) fn chunks(&self) -> ChunkSpanLayer {
        match &self.0 {
            Some(pipeline) => ChunkSpanLayer::new(pipeline.tracer()),
            None => ChunkSpanLayer::off(),
        }
    }

    /// Exports the remaining spans, for a few seconds at most, and reports lost ones. Blocks.
    pub fn shutdown(&self) {
        let Some(pipeline) = &self.0 else {
            return;
        };
        let result = pipeline.shutdown(FLUSH);
        let counts = pipeline.loss().counts();
        let (exported, lost) = (counts.exported, counts.emitted - counts.exported);
        match result {
            Ok(_) => tracing::info!(exported, lost, "traces flushed"),
            Err(error) => tracing::warn!(%error, exported, lost, "traces not flushed"),
        }
    }
}
