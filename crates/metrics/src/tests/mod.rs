//! The layer around a scripted service, and what the layer recorded.

mod labels;
mod outcomes;
mod timing;
mod transparent;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
};

use http::{Request, Response};
use http_body::Body;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_stream_core::{
    BoxError,
    mock::{MockBody, Step},
    wrapper::ResponseBody,
};

use crate::StreamMetricsLayer;

/// A meter, and access to what it recorded.
struct Recorded {
    exporter: InMemoryMetricExporter,
    provider: SdkMeterProvider,
}

/// Value of a counter, or sum and count of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    sum: f64,
    count: u64,
}

impl Recorded {
    fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        Self { exporter, provider }
    }

    fn meter(&self) -> Meter {
        self.provider.meter("test")
    }

    fn layer(&self) -> StreamMetricsLayer {
        StreamMetricsLayer::new(&self.meter())
    }

    /// The series of one instrument: its attributes as `name=value` in order of name, joined by spaces.
    fn series(&self, name: &str) -> BTreeMap<String, Point> {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let exported = self.exporter.get_finished_metrics().unwrap();
        let metrics = exported
            .iter()
            .flat_map(|resource| resource.scope_metrics())
            .flat_map(|scope| scope.metrics())
            .filter(|metric| metric.name() == name);
        let mut series = BTreeMap::new();
        for metric in metrics {
            let points: Vec<(String, Point)> = match metric.data() {
                AggregatedMetrics::F64(data) => points(data, |sum| sum),
                #[allow(clippy::cast_precision_loss)]
                AggregatedMetrics::I64(data) => points(data, |sum| sum as f64),
                #[allow(clippy::cast_precision_loss)]
                AggregatedMetrics::U64(data) => points(data, |sum| sum as f64),
            };
            series.extend(points);
        }
        series
    }

    /// The non-zero values of a counter, or counts of a histogram, by series.
    fn counts(&self, name: &str) -> Vec<(String, u64)> {
        let series = self.series(name).into_iter();
        series
            .map(|(attributes, point)| (attributes, point.count))
            .filter(|(_, count)| *count != 0)
            .collect()
    }

    /// The single series of a histogram.
    fn only(&self, name: &str) -> (String, Point) {
        let series = self.series(name);
        assert_eq!(series.len(), 1, "{name}: {series:?}");
        series.into_iter().next().unwrap()
    }

    /// Asserts that no stream is active, and returns the attributes of the only ended stream.
    fn the_end(&self) -> String {
        let active = self.series(crate::names::STREAM_ACTIVE);
        assert!(!active.is_empty(), "nothing was ever active");
        for (route, point) in active {
            assert_eq!(point.sum, 0.0, "active on {route}");
        }
        let ends = self.counts(crate::names::STREAM_COUNT);
        assert_eq!(ends.len(), 1, "{ends:?}");
        assert_eq!(ends[0].1, 1, "{ends:?}");
        ends[0].0.clone()
    }
}

fn points<T: Copy>(data: &MetricData<T>, number: impl Fn(T) -> f64) -> Vec<(String, Point)> {
    fn key<'a>(attributes: impl Iterator<Item = &'a opentelemetry::KeyValue>) -> String {
        let mut pairs: Vec<_> = attributes
            .map(|pair| format!("{}={}", pair.key, pair.value))
            .collect();
        pairs.sort_unstable();
        pairs.join(" ")
    }
    let sum = |value: T| {
        let sum = number(value);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let count = sum as u64;
        Point { sum, count }
    };
    match data {
        MetricData::Sum(data) => data
            .data_points()
            .map(|point| (key(point.attributes()), sum(point.value())))
            .collect(),
        MetricData::Gauge(data) => data
            .data_points()
            .map(|point| (key(point.attributes()), sum(point.value())))
            .collect(),
        MetricData::Histogram(data) => data
            .data_points()
            .map(|point| {
                let count = point.count();
                let sum = number(point.sum());
                (key(point.attributes()), Point { sum, count })
            })
            .collect(),
        MetricData::ExponentialHistogram(_) => Vec::new(),
    }
}

type Measured = Pin<Box<ResponseBody<MockBody, StreamMetricsLayer>>>;
type Answer = Ready<Result<Response<MockBody>, Infallible>>;

/// Calls a service that responds with this body. Returns the body that the layer returns.
async fn body(layer: &StreamMetricsLayer, body: MockBody) -> Measured {
    answer(layer, Request::new(()), Response::new(body)).await
}

async fn answer(
    layer: &StreamMetricsLayer,
    request: Request<()>,
    response: Response<MockBody>,
) -> Measured {
    let mut response = Some(response);
    let inner = service_fn(move |_: Request<()>| -> Answer { ready(Ok(response.take().unwrap())) });
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    Box::pin(response.into_body())
}

fn mock(steps: impl IntoIterator<Item = Step>) -> MockBody {
    MockBody::new(steps)
}

/// Polls to `None` or an error, as an h2 server does.
async fn play(body: &mut Measured) -> Result<(), BoxError> {
    while let Some(frame) = http_body_util::BodyExt::frame(body).await {
        frame?;
    }
    Ok(())
}

/// Polls until `is_end_stream`, as an h1 server does.
async fn play_h1(body: &mut Measured) -> Result<(), BoxError> {
    while !body.is_end_stream() {
        match http_body_util::BodyExt::frame(body).await {
            Some(frame) => frame?,
            None => break,
        };
    }
    Ok(())
}

/// Calls `poll_ready`, then the service.
async fn call<S, B>(service: &mut S, request: Request<()>) -> Result<Response<B>, S::Error>
where
    S: Service<Request<()>, Response = Response<B>>,
{
    std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
    service.call(request).await
}
