//! A frame allocates nothing, whatever is measured. Only allocations of the test's thread are counted.

use std::{
    convert::Infallible,
    task::{Context, Waker},
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use tower::{Layer, ServiceExt, service_fn};
use tower_stream_core::mock::{self, MockBody};
use tower_stream_metrics::StreamMetricsLayer;

const FRAMES: usize = 5000;

/// Allocations during all polls of a body except the first.
async fn allocations(layer: &StreamMetricsLayer) -> u64 {
    let data = Bytes::from_static(b"chunk");
    let steps: Vec<_> = (0..FRAMES).map(|_| mock::data(data.clone())).collect();
    let mut body = Some(MockBody::new(steps));
    let service = service_fn(move |_: Request<()>| {
        let body = body.take().expect("called once");
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let response = layer.layer(service).oneshot(Request::new(())).await;
    let mut body = Box::pin(response.expect("infallible").into_body());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(body.as_mut().poll_frame(&mut cx).is_ready());
    let allocated = measure(|| {
        for _ in 1..FRAMES {
            assert!(body.as_mut().poll_frame(&mut cx).is_ready());
        }
    });
    allocated.count_total
}

#[tokio::test]
async fn a_frame_allocates_nothing() {
    let reader = PeriodicReader::builder(InMemoryMetricExporter::default()).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    let layer = || StreamMetricsLayer::new(&provider.meter("test"));
    for (name, layer) in [
        ("off", StreamMetricsLayer::off()),
        ("default", layer()),
        (
            "all options",
            layer().producer_wait(true).consumer_hold(true),
        ),
        (
            "bound",
            layer().producer_wait(true).consumer_hold(true).bound(true),
        ),
    ] {
        // The first stream of a route creates its series.
        allocations(&layer).await;
        assert_eq!(allocations(&layer).await, 0, "{name}");
    }
}
