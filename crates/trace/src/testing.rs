//! Captures spans for tests, and creates services.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use opentelemetry::{
    Value,
    trace::{SpanKind, TracerProvider},
};
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, Sampler, SdkTracer, SdkTracerProvider, ShouldSample, SpanData,
};
use tower::{Service, ServiceExt, service_fn};
use tower_stream_core::BoxError;
use tracing::subscriber::DefaultGuard;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{layer::SubscriberExt, registry::Registry};

use crate::attribute;

/// A subscriber for this thread that stores its spans in memory.
pub(crate) struct Traces {
    pub(crate) provider: SdkTracerProvider,
    exporter: InMemorySpanExporter,
    _default: Option<DefaultGuard>,
}

impl Traces {
    /// Without context activation.
    pub(crate) fn lean() -> Self {
        Self::with(Sampler::AlwaysOn, |layer| {
            layer.with_context_activation(false)
        })
    }

    /// With tracing-opentelemetry's defaults.
    pub(crate) fn default() -> Self {
        Self::with(Sampler::AlwaysOn, |layer| layer)
    }

    pub(crate) fn unsampled() -> Self {
        Self::sampled_by(Sampler::AlwaysOff)
    }

    /// With tracing-opentelemetry's defaults and this sampler.
    pub(crate) fn sampled_by(sampler: impl ShouldSample + 'static) -> Self {
        Self::with(sampler, |layer| layer)
    }

    /// OpenTelemetry without tracing.
    pub(crate) fn without_tracing() -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        Self {
            provider,
            exporter,
            _default: None,
        }
    }

    fn with(
        sampler: impl ShouldSample + 'static,
        change: impl FnOnce(
            OpenTelemetryLayer<Registry, SdkTracer>,
        ) -> OpenTelemetryLayer<Registry, SdkTracer>,
    ) -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_sampler(sampler)
            .with_simple_exporter(exporter.clone())
            .build();
        let layer = change(OpenTelemetryLayer::new(provider.tracer("tracing")));
        let subscriber = Registry::default().with(layer);
        Self {
            provider,
            exporter,
            _default: Some(tracing::subscriber::set_default(subscriber)),
        }
    }

    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("chunks")
    }

    pub(crate) fn spans(&self) -> Vec<SpanData> {
        self.exporter.get_finished_spans().unwrap()
    }

    /// The only span of kind server.
    pub(crate) fn request(&self) -> SpanData {
        let is_server = |span: &SpanData| span.span_kind == SpanKind::Server;
        let mut servers: Vec<_> = self.spans().into_iter().filter(is_server).collect();
        assert_eq!(servers.len(), 1, "request spans");
        servers.remove(0)
    }

    /// The chunk spans, by index.
    pub(crate) fn chunks(&self) -> Vec<SpanData> {
        let mut chunks = self.spans();
        chunks.retain(|span| attr(span, attribute::CHUNK_INDEX).is_some());
        chunks.sort_by_key(|span| int(span, attribute::CHUNK_INDEX));
        chunks
    }
}

pub(crate) fn attr(span: &SpanData, key: &str) -> Option<Value> {
    let mut found = span.attributes.iter().filter(|kv| kv.key.as_str() == key);
    let value = found.next().map(|kv| kv.value.clone());
    assert!(found.next().is_none(), "{key} is there twice");
    value
}

pub(crate) fn int(span: &SpanData, key: &str) -> i64 {
    match attr(span, key) {
        Some(Value::I64(value)) => value,
        other => panic!("{key} is no integer: {other:?}"),
    }
}

pub(crate) fn float(span: &SpanData, key: &str) -> f64 {
    match attr(span, key) {
        Some(Value::F64(value)) => value,
        other => panic!("{key} is no double: {other:?}"),
    }
}

pub(crate) fn text(span: &SpanData, key: &str) -> Option<String> {
    match attr(span, key)? {
        Value::String(text) => Some(text.as_str().to_owned()),
        other => panic!("{key} is no string: {other:?}"),
    }
}

/// A service that answers one request with this response.
pub(crate) fn respond<B>(
    response: Response<B>,
) -> impl Service<Request<()>, Response = Response<B>, Error = Infallible> {
    let mut response = Some(response);
    service_fn(move |_| {
        let response = response.take();
        async move { Ok(response.expect("one request")) }
    })
}

/// Sends a GET request through `service`.
pub(crate) async fn get<S, B>(service: S) -> Response<B>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let Ok(response) = service.oneshot(Request::new(())).await;
    response
}

/// Reads a body to its end. Returns the bytes, or the error with which it failed.
pub(crate) async fn read<B>(body: B) -> Result<Bytes, BoxError>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    body.collect()
        .await
        .map(http_body_util::Collected::to_bytes)
}

/// Polls a future once, without a runtime.
pub(crate) fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
