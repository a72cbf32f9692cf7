//! Metrics: one meter for every layer, read by Prometheus.

use std::io;

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};
use prometheus::{Registry, TextEncoder};
use tower_stream_digest::{DigestLayer, Md5, Placements};
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
    pub(crate) fn new(
        drain: &Drain,
        request_ids: &RequestIdLayer,
        digests: &DigestLayer<Md5>,
    ) -> io::Result<Self> {
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
        let digests = digests.clone();
        Readings::new(&meter)
            .digests(move || counted.counts())
            .digests_announced(move || announced(digests.placements()));
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

fn announced(placements: Placements) -> [(&'static str, u64); 3] {
    [
        ("header", placements.header),
        ("trailer", placements.trailer),
        ("unannounced", placements.unannounced),
    ]
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

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use crate::{Args, State};

    #[tokio::test]
    async fn digests_are_counted_where_they_are_announced() {
        let state = State::new(Args::default()).unwrap();
        for (path, trailers) in [
            ("/whoami", false),
            ("/bytes?size=100000&chunk=1000&length=0", true),
            ("/events?count=1", false),
        ] {
            let mut request = Request::get(path);
            if trailers {
                request = request.header("te", "trailers");
            }
            let request = request.body(Body::empty()).unwrap();
            let response = crate::app(&state).oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
        let text = state.metrics.text().unwrap();
        for (placement, count) in [("header", 1), ("trailer", 1), ("unannounced", 0)] {
            let line = format!(
                r#"http_server_response_digest_announced_total{{digest_placement="{placement}"}} {count}"#
            );
            assert!(text.contains(&line), "no `{line}` in\n{text}");
        }
    }
}
