//! Cost of counting, closing and last events per request and frame, compared with tower-http's in-flight counter and
//! the bare service.
//!
//! `cargo bench -p tower-stream-drain`; the last lines are the ratios of this run.
#![allow(missing_docs)]

use std::{convert::Infallible, hint::black_box, pin::pin};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures_util::FutureExt;
use http::{Extensions, Request, Response};
use http_body::Body;
use http_body_util::Empty;
use tower::{ServiceExt, service_fn};
use tower_http::metrics::in_flight_requests::InFlightRequestsLayer;
use tower_layer::{Identity, Layer};
use tower_service::Service;
use tower_stream_bench_support::{CpuTime, Frames, Group, consume};
use tower_stream_core::Exchange;
use tower_stream_drain::{Drain, DrainLayer, FarewellLayer, Policy};

const FRAMES: u32 = 1_000;

const KINDS: [(&str, &str); 2] = [
    (
        "text/event-stream",
        "data: {\"n\":1,\"text\":\"some words of a model\"}\n\n",
    ),
    (
        "application/octet-stream",
        "some bytes of a file, which is no stream of records",
    ),
];

/// Responds to a request, in the state in which an outer layer leaves it, and reads the body to its end.
fn serve<S, B>(service: S) -> usize
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let mut extensions = Extensions::new();
    extensions.insert(Exchange::new());
    let mut request = Request::new(Empty::new());
    *request.extensions_mut() = extensions;
    let response = service.oneshot(request).now_or_never();
    let Some(Ok(response)) = response else {
        panic!("the service answers at once")
    };
    consume(pin!(response.into_body()))
}

fn bench(criterion: &mut Criterion<CpuTime>, frames: u32, unit: &str) {
    let drain = Drain::builder().build();
    let names = [
        "DrainLayer",
        "DrainLayer off",
        "tower-http InFlightRequests",
        "FarewellLayer",
        "FarewellLayer EndEarly",
        "FarewellLayer off",
    ];
    for (content_type, record) in KINDS {
        let title = format!("{frames} frames of {content_type}");
        let mut group = criterion.benchmark_group(&title);
        group.throughput(Throughput::Elements(frames.into()));
        let handler = service_fn(move |_: Request<Empty<Bytes>>| async move {
            let response = Response::builder().header("content-type", content_type);
            let frames = Frames::new(record, frames as usize);
            Ok::<_, Infallible>(response.body(frames).unwrap())
        });
        macro_rules! candidate {
            ($name:expr, $layer:expr) => {
                let service = $layer.layer(handler);
                group.bench_function($name, |b| {
                    b.iter(|| serve(black_box(service.clone())));
                });
            };
        }
        candidate!("bare", Identity::new());
        candidate!(names[0], drain.layer());
        candidate!(names[1], DrainLayer::off());
        let (peer, _counter) = InFlightRequestsLayer::pair();
        candidate!(names[2], peer);
        candidate!(names[3], drain.farewell());
        candidate!(names[4], drain.farewell().policy(Policy::EndEarly));
        candidate!(names[5], FarewellLayer::off());
        group.finish();
        Group::new(&title).print_over("bare", &names, frames, unit);
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .configure_from_args();
    bench(&mut criterion, FRAMES, "frame");
    bench(&mut criterion, 1, "response");
    criterion.final_summary();
}
