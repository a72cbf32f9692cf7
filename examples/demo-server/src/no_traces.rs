//! Traces without the feature `otlp`: no span is exported.

use std::io;

use opentelemetry::metrics::Meter;
use tower_stream_trace::ChunkSpanLayer;
use tracing::Subscriber;
use tracing_subscriber::{Layer, layer::Identity, registry::LookupSpan};

/// Stands in for the exporter of spans, which this build does not have.
#[derive(Clone, Debug, Default)]
pub struct Traces;

impl Traces {
    /// # Errors
    ///
    /// Fails if an endpoint is given.
    pub(crate) fn new(otlp: Option<&str>) -> io::Result<Self> {
        match otlp {
            None => Ok(Self),
            Some(_) => Err(io::Error::other(
                "--otlp needs a build with the feature `otlp`",
            )),
        }
    }

    /// Registers nothing.
    #[expect(clippy::unused_self)] // as with the feature
    pub(crate) fn observe(&self, _: &Meter) {}

    /// Returns no layer.
    #[expect(clippy::unused_self)] // as with the feature
    pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        None::<Identity>
    }

    /// Returns a layer that is off.
    pub(crate) fn chunks(&self) -> ChunkSpanLayer {
        ChunkSpanLayer::off()
    }

    /// Does nothing.
    pub fn shutdown(&self) {}
}
