//! Allocations of the layers per frame. Only allocations of the test's thread are counted.

use std::{convert::Infallible, pin::Pin};

use allocation_counter::measure;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tower::{Layer, ServiceExt, service_fn};
use tower_stream_bench_support::{Frames, consume};
use tower_stream_trace::{ChunkSelection, ChunkSpanLayer, RequestSpanLayer};
use tracing_subscriber::layer::SubscriberExt;

const FRAMES: usize = 1_000;

fn provider(sampler: Sampler) -> SdkTracerProvider {
    SdkTracerProvider::builder().with_sampler(sampler).build()
}

/// Allocations of all frames but the first few of one response through both layers.
async fn allocations(tracer: &SdkTracerProvider, selection: ChunkSelection) -> u64 {
    let chunks = ChunkSpanLayer::new(tracer.tracer("chunks")).select(selection);
    let service = service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Frames::new(&[b'x'; 64][..], FRAMES + 32)))
    });
    let service = RequestSpanLayer::new().layer(chunks.layer(service));
    let response = service.oneshot(Request::new(())).await.unwrap();
    let mut body = Box::pin(response.into_body());
    for _ in 0..32 {
        next(body.as_mut()).unwrap();
    }
    let allocated = measure(|| {
        for _ in 0..FRAMES {
            next(body.as_mut()).unwrap();
        }
    });
    consume(body.as_mut());
    allocated.count_total
}

fn next<B: Body<Data = Bytes>>(body: Pin<&mut B>) -> Option<Bytes> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match body.poll_frame(&mut cx) {
        std::task::Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
        _ => None,
    }
}

#[tokio::test]
async fn only_a_selected_chunk_allocates() {
    let sampled = provider(Sampler::AlwaysOn);
    let unsampled = provider(Sampler::AlwaysOff);
    let first_only = ChunkSelection {
        first: 8,
        powers_of_two: false,
        slower_than: None,
        ..ChunkSelection::default()
    };

    let count = allocations(&sampled, ChunkSelection::all()).await;
    assert_eq!(count, 0, "no subscriber");

    for (provider, selection, max) in [
        (&unsampled, ChunkSelection::all(), 0),
        (&sampled, first_only, 0),
        (&sampled, ChunkSelection::all(), 2 * FRAMES as u64),
    ] {
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("requests"))
            .with_context_activation(false)
            .with_tracked_inactivity(false);
        let subscriber = tracing_subscriber::registry().with(layer);
        let _default = tracing::subscriber::set_default(subscriber);
        let count = allocations(provider, selection).await;
        assert!(
            count <= max,
            "{count} allocations, at most {max}: {selection:?}"
        );
        assert_eq!(count == 0, max == 0, "{selection:?}");
    }
}
