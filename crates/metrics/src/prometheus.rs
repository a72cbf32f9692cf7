//! A meter that Prometheus scrapes.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::{Resource, metrics::SdkMeterProvider};
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tower_service::Service;

/// A meter whose instruments Prometheus can scrape, and the service that responds to the scrape.
///
/// Pass [`Prometheus::meter`] to [`StreamMetricsLayer::new`](crate::StreamMetricsLayer::new) and to the `observe` of
/// other layers. The value itself is a service: each request collects the metrics and returns them in the Prometheus
/// text format. Put it on an admin listener, because metrics reveal what the server does.
///
/// ```
/// use axum::{Router, body::{Body, to_bytes}, routing::get};
/// use http::Request;
/// use tower::ServiceExt;
/// use tower_stream_metrics::{Prometheus, StreamMetricsLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let prometheus = Prometheus::new("my-service");
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(StreamMetricsLayer::new(&prometheus.meter()));
/// let admin: Router = Router::new().route_service("/metrics", prometheus);
///
/// let response = app.oneshot(Request::get("/").body(Body::empty())?).await?;
/// to_bytes(response.into_body(), usize::MAX).await?;
/// let scraped = admin.oneshot(Request::get("/metrics").body(Body::empty())?).await?;
/// let text = String::from_utf8(to_bytes(scraped.into_body(), usize::MAX).await?.into())?;
/// assert!(text.contains(
///     r#"http_server_response_stream_count_total{http_route="/",outcome="complete"} 1"#
/// ));
/// # Ok(()) }
/// ```
///
/// A clone shares the instruments. When the last clone is dropped, measuring stops.
#[derive(Clone, Debug)]
pub struct Prometheus {
    registry: Registry,
    provider: SdkMeterProvider,
}

impl Prometheus {
    /// Creates a meter for the service with this name, which becomes `service_name` in the series `target_info`.
    /// `OTEL_RESOURCE_ATTRIBUTES` adds more attributes.
    #[must_use]
    pub fn new(service: impl Into<String>) -> Self {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // Otherwise every line would contain the name of the meter, which is always the same.
            .scope_info_enabled(false)
            .build()
            .expect("a new registry accepts its first collector");
        let resource = Resource::builder()
            .with_service_name(service.into())
            .build();
        let provider = SdkMeterProvider::builder()
            .with_resource(resource)
            .with_reader(exporter)
            .build();
        Self { registry, provider }
    }

    /// The meter to create instruments on.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.provider.meter(env!("CARGO_PKG_NAME"))
    }

    /// The provider, for example to make it the global one.
    #[must_use]
    pub fn provider(&self) -> &SdkMeterProvider {
        &self.provider
    }

    fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl<B> Service<Request<B>> for Prometheus {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let mut response = Response::default();
        let format = match self.text() {
            Ok(text) => {
                *response.body_mut() = text;
                TEXT_FORMAT
            }
            Err(error) => {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                *response.body_mut() = error.to_string();
                "text/plain; charset=utf-8"
            }
        };
        let format = HeaderValue::from_static(format);
        response.headers_mut().insert(header::CONTENT_TYPE, format);
        ready(Ok(response))
    }
}
