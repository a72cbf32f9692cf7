//! What the error writer costs a frame and a request, beside tower-http's `CatchPanic` and the bare service.
//!
//! `cargo bench -p tower-stream-errors`; the last lines are the ratios and the difference to bare.
#![allow(missing_docs)]

use std::{
    convert::Infallible,
    fmt::Write,
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Body, Frame};
use tower::{Service, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_layer::{Identity, Layer};
use tower_stream_errors::ErrorWriterLayer;

const FRAMES: u64 = 1_000;

/// `FRAMES` times the same record, without telling its size, as a stream does.
struct Repeat {
    record: Bytes,
    left: u64,
}

impl Body for Repeat {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.record.clone()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}

type Handler = tower::util::BoxCloneService<Request<()>, Response<Repeat>, Infallible>;

fn handler(content_type: &'static str, record: &'static str, frames: u64) -> Handler {
    let service = service_fn(move |_: Request<()>| async move {
        let record = Bytes::from_static(record.as_bytes());
        let body = Repeat {
            record,
            left: frames,
        };
        let response = Response::builder().header("content-type", content_type);
        Ok::<_, Infallible>(response.body(body).unwrap())
    });
    tower::util::BoxCloneService::new(service)
}

/// Asks and reads to the end, as hyper does: `is_end_stream` after each frame.
fn serve<S, B>(service: &mut S) -> u64
where
    S: Service<Request<()>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
    B: Body<Data = Bytes>,
{
    let response = service.call(Request::new(())).now_or_never().unwrap();
    let mut body = pin!(response.unwrap().into_body());
    let mut cx = Context::from_waker(Waker::noop());
    let mut bytes = 0;
    while !body.is_end_stream() {
        match body.as_mut().poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => {
                bytes += black_box(&frame).data_ref().map_or(0, Bytes::len) as u64;
            }
            _ => break,
        }
    }
    bytes
}

const KINDS: [(&str, &str, &str); 3] = [
    (
        "sse",
        "text/event-stream",
        "data: {\"n\":1,\"text\":\"some words of a model\"}\n\n",
    ),
    (
        "lines",
        "application/x-ndjson",
        "{\"n\":1,\"text\":\"some words of a model\"}\n",
    ),
    (
        "bytes",
        "application/octet-stream",
        "{\"n\":1,\"text\":\"some words of a model\"}\n",
    ),
];

fn bench<L>(criterion: &mut Criterion, name: &str, layer: &L, frames: u64)
where
    L: Layer<Handler>,
    L::Service: ServeBytes,
{
    let mut group = criterion.benchmark_group(if frames > 1 { "frame" } else { "request" });
    group.throughput(Throughput::Elements(frames));
    for (kind, content_type, record) in KINDS {
        let mut service = layer.layer(handler(content_type, record, frames));
        group.bench_function(BenchmarkId::new(name, kind), |b| {
            b.iter(|| assert!(service.serve_bytes() > 0));
        });
    }
    group.finish();
}

/// Hides the body type, which differs with the layer.
trait ServeBytes {
    fn serve_bytes(&mut self) -> u64;
}

impl<S, B> ServeBytes for S
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    fn serve_bytes(&mut self) -> u64 {
        serve(self)
    }
}

/// The median of a benchmark of this run, in nanoseconds.
fn median(group: &str, name: &str, kind: &str) -> Option<f64> {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "../../target".to_owned());
    let path = format!("{target}/criterion/{group}/{name}/{kind}/new/estimates.json");
    let text = std::fs::read_to_string(path).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    json["median"]["point_estimate"].as_f64()
}

fn summary() -> String {
    let mut text = String::new();
    for (group, units) in [("frame", FRAMES as f64), ("request", 1.0)] {
        for (kind, ..) in KINDS {
            let Some(bare) = median(group, "bare", kind) else {
                continue;
            };
            for name in ["CatchPanic", "ErrorWriter", "ErrorWriter off"] {
                if let Some(time) = median(group, name, kind) {
                    let _ = writeln!(
                        text,
                        "a {group}, {kind:5} {name:15} {:5.2} x bare, {:+7.2} ns",
                        time / bare,
                        (time - bare) / units
                    );
                }
            }
        }
    }
    text
}

#[allow(clippy::print_stdout)]
fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for frames in [FRAMES, 1] {
        bench(&mut criterion, "bare", &Identity::new(), frames);
        bench(
            &mut criterion,
            "CatchPanic",
            &CatchPanicLayer::new(),
            frames,
        );
        bench(
            &mut criterion,
            "ErrorWriter",
            &ErrorWriterLayer::new(),
            frames,
        );
        bench(
            &mut criterion,
            "ErrorWriter off",
            &ErrorWriterLayer::off(),
            frames,
        );
    }
    criterion.final_summary();
    println!("{}", summary());
}
