//! What the layer costs a frame that is joined, one that comes alone, and a response of one frame, beside the bare body and
//! `futures`' `ready_chunks` with a copy, which is what a handler would write itself.
//!
//! `cargo bench -p tower-stream-coalesce`; the last lines are the ratios of this run. What a joined frame saves is not here:
//! it is in the server, see `tests/instructions`.
#![allow(missing_docs)]

use std::{convert::Infallible, hint::black_box, pin::pin};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput};
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response};
use tower::{ServiceExt, layer::util::Identity, service_fn};
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_bench_support::{CpuTime, Frames, Group, consume};
use tower_stream_coalesce::CoalesceLayer;

const FRAMES: u32 = 1_000;

/// Answers a request and reads the body to its end.
fn serve<S, B>(service: S) -> usize
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes>,
{
    let response = service.oneshot(Request::new(())).now_or_never();
    let Some(Ok(response)) = response else {
        panic!("the service answers at once")
    };
    consume(pin!(response.into_body()))
}

/// What a handler that joins its own frames would write.
fn ready_chunks(frames: Frames) -> Body {
    let stream = http_body_util::BodyStream::new(frames)
        .filter_map(async |frame| frame.ok()?.into_data().ok());
    Body::from_stream(stream.ready_chunks(256).map(|chunks| {
        let mut joined = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
        chunks
            .iter()
            .for_each(|chunk| joined.extend_from_slice(chunk));
        Ok::<_, Infallible>(joined.freeze())
    }))
}

fn bench(criterion: &mut Criterion<CpuTime>, size: usize, frames: u32, unit: &str) {
    let names = ["Coalesce", "off", "ready_chunks"];
    let title = format!("{frames} of {size} B");
    let mut group = criterion.benchmark_group(&title);
    group.throughput(Throughput::Elements(frames.into()));
    let data = Bytes::from(vec![b'x'; size]);
    macro_rules! candidate {
        ($name:expr, $layer:expr, $body:expr) => {
            let data = data.clone();
            let service = $layer.layer(service_fn(move |_: Request<()>| {
                let frames = Frames::new(data.clone(), frames as usize);
                async move { Ok::<_, Infallible>(Response::new($body(frames))) }
            }));
            group.bench_function($name, |b| {
                b.iter(|| serve(black_box(service.clone())));
            });
        };
    }
    candidate!("bare", Identity::new(), Body::new);
    candidate!(names[0], CoalesceLayer::new(), Body::new);
    candidate!(names[1], CoalesceLayer::off(), Body::new);
    candidate!(names[2], Identity::new(), ready_chunks);
    group.finish();
    Group::new(&title).print_over("bare", &names, frames, unit);
}

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .configure_from_args();
    bench(&mut criterion, 64, FRAMES, "frame");
    bench(&mut criterion, 16 * 1024, FRAMES, "frame");
    bench(&mut criterion, 64, 1, "response");
    criterion.final_summary();
}
