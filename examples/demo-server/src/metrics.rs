//! Metrics: one meter for every layer, read by Prometheus.

use std::io;

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};
use prometheus::{Registry, TextEncoder};
use tower_stream_drain::{Drain, Phase, State};
use tower_stream_ids::RequestIdLayer;
use tower_stream_metrics::{DrainReading, DrainState, Readings, StreamMetricsLayer};
use tower_stream_trace::loss::Loss;

use crate::verdicts::Verdicts;

/// The layer that measures streams, and what it and others have measured.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    layer: StreamMetricsLayer,
    registry: Registry,
    verdicts: Verdicts,
    /// dropped, it shuts down, and nothing is collected any more
    provider: SdkMeterProvider,
}

impl Metrics {
    /// # Errors
    ///
    /// When the exporter cannot be registered.
    pub(crate) fn new(drain: &Drain, request_ids: &RequestIdLayer) -> io::Result<Self> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // one scope: its name on every line would tell nobody anything
            .scope_info_enabled(false)
            .build()
            .map_err(io::Error::other)?;
        let provider = SdkMeterProvider::builder()
            .with_resource(Resource::builder().with_service_name("demo-server").build())
            .with_reader(exporter)
            .build();
        let meter = provider.meter("demo-server");
        let request_ids = request_ids.clone();
        Readings::new(&meter).request_ids_replaced(move || request_ids.replaced());
        // A demo shows everything; both are off by default because they read the clock once more a chunk.
        let layer = StreamMetricsLayer::new(&meter)
            .producer_wait(true)
            .consumer_hold(true);
        let drain = drain.clone();
        Readings::new(&meter).drain(move || reading(&drain));
        let verdicts = Verdicts::default();
        let counted = verdicts.clone();
        Readings::new(&meter).digests(move || counted.counts());
        Ok(Self {
            layer,
            registry,
            verdicts,
            provider,
        })
    }

    pub(crate) fn layer(&self) -> StreamMetricsLayer {
        self.layer.clone()
    }

    /// Shows what becomes of the spans.
    pub(crate) fn observe(&self, spans: &Loss) {
        spans.observe(&self.provider.meter("demo-server"));
    }

    /// What came of promised digests.
    pub(crate) fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    /// Collects, and writes it down in the Prometheus text format.
    pub(crate) fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn reading(drain: &Drain) -> DrainReading {
    let stats = drain.stats();
    DrainReading {
        state: match stats.state {
            State::Active => DrainState::Active,
            State::Draining(Phase::Advertise) => DrainState::Advertise,
            State::Draining(Phase::Close) => DrainState::Close,
            State::Dead => DrainState::Dead,
        },
        in_flight: stats.in_flight,
        refused: stats.refused,
    }
}
