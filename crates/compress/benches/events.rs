//! CPU time of one event of a chat completion that is compressed and flushed by itself, beside tower-http's `CompressionLayer`
//! with server-sent events allowed, and the bare body. Every second poll of the body is pending, as when tokens come one by one.
//!
//! `cargo bench -p tower-stream-compress --features zstd --bench events`; after each group come the ratios of this run, and what is
//! left of the bytes.
#![allow(missing_docs, clippy::print_stdout)]

use std::{
    convert::Infallible,
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Body, Frame};
use tower::{ServiceExt, layer::util::Identity, service_fn};
use tower_http::compression::{CompressionLayer, CompressionLevel, predicate::SizeAbove};
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_bench_support::{CpuTime, Group};
use tower_stream_compress::{Coding, CompressLayer, Settings};

const EVENTS: u32 = 200;

/// Events that differ in one word, with a wait after each.
#[derive(Clone)]
struct Tokens {
    left: u32,
    waits: bool,
}

impl Body for Tokens {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.waits = !self.waits;
        if !self.waits {
            return Poll::Pending;
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        let word = self.left.wrapping_mul(2_654_435_761);
        let event = format!(
            "data: {{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
             \"model\":\"demo\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" {word:x}\"}},\
             \"finish_reason\":null}}]}}\n\n"
        );
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(event)))))
    }
}

/// Answers a request and reads the body to its end.
fn serve<S, B>(service: S, coding: &str) -> usize
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let request = Request::builder().header("accept-encoding", coding);
    let response = service.oneshot(request.body(()).unwrap()).now_or_never();
    let Some(Ok(response)) = response else {
        panic!("the service answers at once")
    };
    let mut body = pin!(response.into_body());
    let mut cx = Context::from_waker(Waker::noop());
    let mut bytes = 0;
    loop {
        match body.as_mut().poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => bytes += frame.data_ref().map_or(0, Bytes::len),
            Poll::Ready(None) => return bytes,
            Poll::Ready(Some(Err(_))) => panic!("the body failed"),
            Poll::Pending => {}
        }
    }
}

fn bench(criterion: &mut Criterion<CpuTime>, coding: Coding, level: u8) {
    let names: &[&str] = match coding {
        // tower-http's is not in this build
        Coding::Zstd => &["Compress"],
        _ => &["Compress", "tower-http"],
    };
    let mut sizes = Vec::new();
    let title = format!("{coding} {level}");
    let mut group = criterion.benchmark_group(&title);
    group.throughput(Throughput::Elements(EVENTS.into()));
    macro_rules! candidate {
        ($name:expr, $layer:expr) => {
            let service = $layer.layer(service_fn(async |_: Request<()>| {
                let body = Tokens {
                    left: EVENTS,
                    waits: false,
                };
                let response = Response::builder().header("content-type", "text/event-stream");
                Ok::<_, Infallible>(response.body(body).unwrap())
            }));
            sizes.push(serve(service.clone(), coding.as_str()) as f64);
            group.bench_function($name, |b| {
                b.iter(|| serve(black_box(service.clone()), coding.as_str()));
            });
        };
    }
    let settings = Settings::on().codings([(coding, level)]);
    let quality = CompressionLevel::Precise(level.into());
    candidate!("bare", Identity::new());
    candidate!(names[0], CompressLayer::new().settings(settings));
    if let Some(name) = names.get(1) {
        let layer = CompressionLayer::new().quality(quality);
        candidate!(*name, layer.compress_when(SizeAbove::new(0)));
    }
    group.finish();
    Group::new(&title).print_over("bare", names, EVENTS, "event");
    for (name, size) in names.iter().zip(&sizes[1..]) {
        println!("{name}: {:.1} % of the bytes", size / sizes[0] * 100.0);
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .configure_from_args();
    for (coding, level) in [
        (Coding::Gzip, 1),
        (Coding::Gzip, 6),
        (Coding::Zstd, 1),
        (Coding::Zstd, 3),
        (Coding::Br, 3),
        (Coding::Br, 4),
    ] {
        if coding.is_available() {
            bench(&mut criterion, coding, level);
        }
    }
    criterion.final_summary();
}
