//! A complete pipeline from spans to an OTLP receiver, sized for chunk spans.
//!
//! [`Pipeline`] is a tracer provider with a batch processor that counts lost spans ([`crate::loss`]), an OTLP/HTTP
//! exporter, a resource, and a shutdown that flushes within a time limit. If the receiver is not reachable, this is
//! logged with its endpoint and the cause, see [`crate::loss`].
//!
//! ```no_run
//! use std::time::Duration;
//! use tower_stream_trace::{ChunkSpanLayer, RequestSpanLayer, pipeline::Pipeline};
//! use tracing_subscriber::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pipeline = Pipeline::builder("shop").endpoint("http://127.0.0.1:4318").build()?;
//! tracing_subscriber::registry().with(pipeline.layer()).init();
//!
//! let layers = (RequestSpanLayer::new(), ChunkSpanLayer::new(pipeline.tracer()));
//! // .. serve ..
//! let counts = pipeline.shutdown(Duration::from_secs(5))?;
//! println!("{} spans lost", counts.dropped());
//! # let _ = layers;
//! # Ok(())
//! # }
//! ```

use std::{fmt, time::Duration};

use http::Uri;
use opentelemetry::{
    KeyValue, global, propagation::TextMapCompositePropagator, trace::TracerProvider,
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkError,
    propagation::{BaggagePropagator, TraceContextPropagator},
    trace::{Sampler, SdkTracer, SdkTracerProvider, ShouldSample},
};
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::registry::LookupSpan;

use crate::{
    client::Client,
    loss::{self, BatchOptions, Destination, Loss, SpanCounts},
};

const SCOPE: &str = env!("CARGO_PKG_NAME");

/// A tracer provider, and the counts of its exported and lost spans.
///
/// Dropping it does not shut it down, because the layers hold tracers of it. Call [`Pipeline::shutdown`].
#[derive(Clone, Debug)]
pub struct Pipeline {
    provider: SdkTracerProvider,
    loss: Loss,
}

/// Builds a [`Pipeline`].
#[derive(Debug)]
pub struct PipelineBuilder {
    resource: Vec<KeyValue>,
    service: String,
    endpoint: Option<String>,
    sampler: Box<dyn ShouldSample>,
    batch: BatchOptions,
}

impl Pipeline {
    /// Creates a builder for the service with this name (`service.name`; `OTEL_RESOURCE_ATTRIBUTES` adds more
    /// attributes).
    pub fn builder(service: impl Into<String>) -> PipelineBuilder {
        PipelineBuilder {
            resource: Vec::new(),
            service: service.into(),
            endpoint: None,
            sampler: Box::new(Sampler::ParentBased(Box::new(Sampler::AlwaysOn))),
            batch: BatchOptions::default(),
        }
    }

    /// The layer that converts tracing spans into OpenTelemetry spans, see [`lean`].
    pub fn layer<S>(&self) -> OpenTelemetryLayer<S, SdkTracer>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        lean(self.tracer())
    }

    /// A tracer, for [`ChunkSpanLayer::new`](crate::ChunkSpanLayer::new).
    #[must_use]
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer(SCOPE)
    }

    /// The provider, for example to make it the global one or to create other tracers.
    #[must_use]
    pub fn provider(&self) -> &SdkTracerProvider {
        &self.provider
    }

    /// The counts of exported and lost spans.
    #[must_use]
    pub fn loss(&self) -> &Loss {
        &self.loss
    }

    /// Exports the remaining spans and stops, within `within`. Returns the final counts.
    ///
    /// This blocks the thread. Streams must have ended before: spans that end later are lost, and those that end after
    /// the provider has stopped are not even counted.
    ///
    /// # Errors
    ///
    /// Fails if the last export failed or did not end in time. [`Pipeline::loss`] still has the counts.
    pub fn shutdown(&self, within: Duration) -> Result<SpanCounts, OTelSdkError> {
        self.provider.shutdown_with_timeout(within)?;
        Ok(self.loss.counts())
    }
}

/// tracing-opentelemetry without the features that make every poll expensive: context activation and the tracking of
/// idle times.
///
/// A request span is entered for each poll of a body, which takes some 210 ns with tracing-opentelemetry's defaults and
/// some 70 ns with this layer. The layers of this crate need neither feature. Without them, spans have no `busy_ns` and
/// `idle_ns`, and `opentelemetry::Context::current()` is not set in a handler. Code that creates spans there on the
/// OpenTelemetry API can use `tracing::Span::current().context()` instead. Thread names are also omitted, because a
/// stream changes threads, and so are source locations, which for a request span are those of this crate.
pub fn lean<S, T>(tracer: T) -> OpenTelemetryLayer<S, T>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    T: opentelemetry::trace::Tracer + 'static,
    T::Span: Send + Sync,
{
    OpenTelemetryLayer::new(tracer)
        .with_context_activation(false)
        .with_tracked_inactivity(false)
        .with_threads(false)
        .with_location(false)
}

impl PipelineBuilder {
    /// Sets the URL of the receiver, for example `http://127.0.0.1:4318`; `/v1/traces` is added if the URL has no path.
    /// Without it, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` and related variables decide.
    ///
    /// `https` requires `opentelemetry-otlp` with its feature `reqwest-rustls` in your own dependencies.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Adds attributes to the resource.
    #[must_use]
    pub fn resource(mut self, attributes: impl IntoIterator<Item = KeyValue>) -> Self {
        self.resource.extend(attributes);
        self
    }

    /// Sets the sampler. Default: all requests, unless the remote parent is not sampled.
    #[must_use]
    pub fn sampler(mut self, sampler: impl ShouldSample + 'static) -> Self {
        self.sampler = Box::new(sampler);
        self
    }

    /// Sets queue size, batch size and delay.
    #[must_use]
    pub fn batch(mut self, options: BatchOptions) -> Self {
        self.batch = options;
        self
    }

    /// Builds the pipeline with an OTLP/HTTP exporter, and sets the global propagator to W3C trace context and baggage.
    ///
    /// # Errors
    ///
    /// Fails if the endpoint is not an `http` or `https` URL, or if the exporter cannot be created.
    pub fn build(self) -> Result<Pipeline, PipelineError> {
        let destination = Destination::default();
        let client = Client::new(destination.clone()).map_err(PipelineError::Exporter)?;
        let mut exporter = SpanExporter::builder().with_http().with_http_client(client);
        if let Some(url) = &self.endpoint {
            exporter = exporter.with_endpoint(traces_endpoint(url)?);
        }
        let exporter = exporter.build().map_err(PipelineError::Exporter)?;
        Ok(self.build_to(exporter, destination))
    }

    /// Builds the pipeline with another exporter, which must not need an async runtime.
    pub fn build_with(
        self,
        exporter: impl opentelemetry_sdk::trace::SpanExporter + 'static,
    ) -> Pipeline {
        self.build_to(exporter, Destination::default())
    }

    fn build_to(
        self,
        exporter: impl opentelemetry_sdk::trace::SpanExporter + 'static,
        destination: Destination,
    ) -> Pipeline {
        let resource = Resource::builder()
            .with_service_name(self.service)
            .with_attributes(self.resource)
            .build();
        let (processor, loss) = loss::batch_to(exporter, self.batch, destination);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(self.sampler)
            .with_span_processor(processor)
            .build();
        global::set_text_map_propagator(TextMapCompositePropagator::new(vec![
            Box::new(TraceContextPropagator::new()),
            Box::new(BaggagePropagator::new()),
        ]));
        Pipeline { provider, loss }
    }
}

/// The URL to which spans are posted.
fn traces_endpoint(url: &str) -> Result<String, PipelineError> {
    let invalid = || PipelineError::Endpoint(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| invalid())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(invalid());
    }
    Ok(match uri.path() {
        "" | "/" => format!("{}/v1/traces", url.trim_end_matches('/')),
        _ => url.to_owned(),
    })
}

/// Why a [`Pipeline`] could not be built.
#[derive(Debug)]
#[non_exhaustive]
pub enum PipelineError {
    /// This endpoint is not an `http` or `https` URL.
    Endpoint(String),
    /// The exporter could not be created.
    Exporter(ExporterBuildError),
}

impl fmt::Display for PipelineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(url) => write!(
                f,
                "`{url}` is no URL of an OTLP/HTTP receiver: write it like http://127.0.0.1:4318"
            ),
            Self::Exporter(_) => f.write_str("the OTLP exporter could not be made"),
        }
    }
}

impl std::error::Error for PipelineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Endpoint(_) => None,
            Self::Exporter(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::Tracer;
    use opentelemetry_sdk::trace::InMemorySpanExporter;

    use super::*;

    #[test]
    fn an_endpoint_gets_the_path_of_traces_unless_it_has_one() {
        for (given, used) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.example/x/y", "https://otel.example/x/y"),
        ] {
            assert_eq!(traces_endpoint(given).unwrap(), used);
        }
    }

    #[test]
    fn a_bad_endpoint_is_named() {
        for bad in [
            "",
            "4318",
            "localhost:4318",
            "ftp://x",
            "http://",
            "/v1/traces",
        ] {
            let error = Pipeline::builder("x").endpoint(bad).build().unwrap_err();
            assert!(error.to_string().contains(&format!("`{bad}`")), "{error}");
        }
    }

    #[test]
    fn shutdown_flushes_and_gives_the_account() {
        #[derive(Debug)]
        struct Keeps(InMemorySpanExporter);

        // The in-memory exporter clears itself on shutdown.
        impl opentelemetry_sdk::trace::SpanExporter for Keeps {
            async fn export(
                &self,
                batch: Vec<opentelemetry_sdk::trace::SpanData>,
            ) -> opentelemetry_sdk::error::OTelSdkResult {
                self.0.export(batch).await
            }
        }

        let exporter = InMemorySpanExporter::default();
        let pipeline = Pipeline::builder("x")
            .resource([KeyValue::new("deployment.environment.name", "test")])
            .build_with(Keeps(exporter.clone()));
        for _ in 0..3 {
            drop(pipeline.tracer().start("span"));
        }
        let counts = pipeline.shutdown(Duration::from_secs(5)).unwrap();
        assert_eq!((counts.emitted, counts.exported), (3, 3));
        assert_eq!(exporter.get_finished_spans().unwrap().len(), 3);
        assert!(pipeline.shutdown(Duration::from_secs(1)).is_err());
    }
}
