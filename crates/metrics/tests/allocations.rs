//! A frame allocates nothing, whatever is measured of it. In a process of its own: the count is global.

use std::{
    alloc::System,
    convert::Infallible,
    task::{Context, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer, ServiceExt, service_fn};
use tower_stream_body::mock::{self, MockBody};
use tower_stream_metrics::StreamMetricsLayer;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FRAMES: usize = 5000;

/// Allocations in this process during all polls of a body after its first.
async fn allocations(layer: &StreamMetricsLayer) -> usize {
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
    let region = Region::new(ALLOCATOR);
    for _ in 1..FRAMES {
        assert!(body.as_mut().poll_frame(&mut cx).is_ready());
    }
    region.change().allocations
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
        // the first stream of a route makes its series; what other threads allocate (the test harness, the reader) they
        // do not allocate during every one of these
        let mut fewest = usize::MAX;
        for _ in 0..5 {
            fewest = fewest.min(allocations(&layer).await);
        }
        assert_eq!(fewest, 0, "{name}");
    }
}
