//! What the heartbeat layer costs a frame and a response that never wait, beside axum's `KeepAlive` and the bare body.
//!
//! `cargo bench -p tower-stream-heartbeat`; the last lines are the ratios of this run.
#![allow(missing_docs)]

use std::{convert::Infallible, hint::black_box, pin::pin};

use axum::response::{IntoResponse, Sse, sse};
use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures_util::{FutureExt, stream};
use http::{Request, Response};
use http_body::Body;
use tower::{ServiceExt, layer::util::Identity, service_fn};
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_bench_support::{CpuTime, Group, consume};
use tower_stream_heartbeat::{Heartbeat, HeartbeatLayer};

const FRAMES: u32 = 1_000;

/// Answers a request and reads the body to its end.
fn serve<S, B>(service: S) -> usize
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let response = service.oneshot(Request::new(())).now_or_never();
    let Some(Ok(response)) = response else {
        panic!("the service answers at once")
    };
    consume(pin!(response.into_body()))
}

/// A handler of axum's, whose body is boxed.
fn answer(frames: u32, keep_alive: bool) -> Response<axum::body::Body> {
    let events = (0..frames).map(|_| Ok::<_, Infallible>(sse::Event::default().data("some words")));
    let sse = Sse::new(stream::iter(events));
    match keep_alive {
        true => sse.keep_alive(sse::KeepAlive::new()).into_response(),
        false => sse.into_response(),
    }
}

fn bench(criterion: &mut Criterion<CpuTime>, frames: u32, unit: &str) {
    let names = [
        "Heartbeat",
        "Heartbeat, comment_unless_ids",
        "off",
        "axum's KeepAlive",
    ];
    let title = format!("{frames} events");
    let mut group = criterion.benchmark_group(&title);
    group.throughput(Throughput::Elements(frames.into()));
    macro_rules! candidate {
        ($name:expr, $layer:expr, $keep_alive:expr) => {
            let service = $layer.layer(service_fn(move |_: Request<()>| async move {
                Ok::<_, Infallible>(answer(frames, $keep_alive))
            }));
            group.bench_function($name, |b| {
                b.iter(|| serve(black_box(service.clone())));
            });
        };
    }
    let for_openai = HeartbeatLayer::new().events(Heartbeat::comment_unless_ids());
    candidate!("bare", Identity::new(), false);
    candidate!(names[0], HeartbeatLayer::new(), false);
    candidate!(names[1], for_openai, false);
    candidate!(names[2], HeartbeatLayer::off(), false);
    candidate!(names[3], Identity::new(), true);
    group.finish();
    Group::new(&title).print_over("bare", &names, frames, unit);
}

fn main() {
    // axum's KeepAlive makes its timer with the response
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .configure_from_args();
    bench(&mut criterion, FRAMES, "frame");
    bench(&mut criterion, 1, "response");
    criterion.final_summary();
}
