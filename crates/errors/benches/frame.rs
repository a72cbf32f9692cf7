//! Cost of the error writer per frame and response, compared with tower-http's `CatchPanic` and the bare service.
//!
//! `cargo bench -p tower-stream-errors`; the last lines are the ratios of this run.
#![allow(missing_docs)]

use std::{convert::Infallible, hint::black_box, pin::pin};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use tower::{ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_layer::{Identity, Layer};
use tower_service::Service;
use tower_stream_bench_support::{CpuTime, Frames, Group, consume};
use tower_stream_errors::ErrorWriterLayer;

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

/// Responds to a request and reads the body to its end.
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

fn handler(
    content_type: &'static str,
    record: &'static str,
    frames: u32,
) -> impl Service<Request<()>, Response = Response<Frames>, Error = Infallible, Future: Send> + Clone
{
    service_fn(move |_: Request<()>| async move {
        let response = Response::builder().header("content-type", content_type);
        let frames = Frames::new(record, frames as usize);
        Ok::<_, Infallible>(response.body(frames).unwrap())
    })
}

fn bench(criterion: &mut Criterion<CpuTime>, frames: u32, unit: &str) {
    let names = [
        "ErrorWriter",
        "without first_poll",
        "off",
        "tower-http CatchPanic",
    ];
    for (content_type, record) in KINDS {
        let title = format!("{frames} frames of {content_type}");
        let mut group = criterion.benchmark_group(&title);
        group.throughput(Throughput::Elements(frames.into()));
        let handler = handler(content_type, record, frames);
        macro_rules! candidate {
            ($name:expr, $layer:expr) => {
                let service = $layer.layer(handler.clone());
                group.bench_function($name, |b| {
                    b.iter(|| serve(black_box(service.clone())));
                });
            };
        }
        candidate!("bare", Identity::new());
        candidate!(names[0], ErrorWriterLayer::new());
        candidate!(names[1], ErrorWriterLayer::new().first_poll(false));
        candidate!(names[2], ErrorWriterLayer::off());
        candidate!(names[3], CatchPanicLayer::new());
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
