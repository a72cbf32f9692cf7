//! What watching a body costs a frame, and how fast boundaries are found.
//!
//! `cargo bench -p tower-stream-body`. The last lines are the ratios of this run.
#![allow(missing_docs)]

use std::{
    hint::black_box,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group};
use http::{Method, Response};
use http_body::{Body, Frame};
use tower_stream_body::{Fault, Observation, Observe, RecordFormat, RecordHold, boundary::Scanner};

const FRAMES: usize = 1_000;

/// Gives the same frame again and again.
struct Frames {
    frame: Bytes,
    left: usize,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    #[inline(never)]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
    }
}

struct Nothing;
impl Observe for Nothing {}

#[derive(Default)]
struct Count(u64);
impl Observe for Count {
    fn frame(&mut self, frame: &Frame<Bytes>) {
        self.0 += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
}

fn drain<B: Body<Data = Bytes> + Unpin>(mut body: B) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let mut bytes = 0;
    while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) {
        bytes += black_box(frame).data_ref().map_or(0, Bytes::len);
    }
    bytes
}

fn frames() -> Frames {
    Frames {
        frame: Bytes::from_static(&[b'x'; 64]),
        left: FRAMES,
    }
}

fn observed<O: Observe>(observer: O) -> impl Body<Data = Bytes> + Unpin {
    Observation::new(observer, Fault::new())
        .into_response(&Method::GET, Response::new(frames()))
        .into_body()
}

fn bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group("1000 frames of 64 B");
    group.throughput(Throughput::Elements(FRAMES as u64));
    group.bench_function("bare", |b| b.iter(|| drain(frames())));
    group.bench_function("ObservedBody, nothing to tell", |b| {
        b.iter(|| drain(observed(Nothing)))
    });
    group.bench_function("ObservedBody, counting bytes", |b| {
        b.iter(|| drain(observed(Count::default())))
    });
    group.finish();
}

fn boundaries(c: &mut Criterion) {
    let event = format!("event: token\ndata: {}\n\n", "x".repeat(200 - 21));
    let events = event.repeat(1_000);
    assert_eq!(event.len(), 200);
    let mut group = c.benchmark_group("SSE, 200-byte events");
    group.throughput(Throughput::Bytes(events.len() as u64));
    group.bench_function("Scanner::boundaries", |b| {
        b.iter(|| {
            let mut scanner = Scanner::new(RecordFormat::Sse);
            assert_eq!(
                scanner.boundaries(black_box(events.as_bytes())).count(),
                1_000
            );
        });
    });
    group.bench_function("byte by byte", |b| {
        b.iter(|| {
            let (mut count, mut blank) = (0, true);
            for byte in black_box(events.as_bytes()) {
                match byte {
                    b'\n' if blank => count += 1,
                    b'\n' => blank = true,
                    _ => blank = false,
                }
            }
            assert_eq!(count, 1_000);
        });
    });
    let whole = Bytes::from(event);
    group.bench_function("RecordHold, an event a chunk", |b| {
        b.iter(|| {
            let mut hold = RecordHold::new(RecordFormat::Sse, RecordHold::DEFAULT_CAP);
            for _ in 0..1_000 {
                black_box(hold.push(whole.clone()));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, bodies, boundaries);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    summary();
}

/// The medians that criterion has just written, as figures a frame and ratios.
fn summary() {
    let median = |group: &str, name: &str| {
        let path = format!("{}/criterion/{group}/{name}/new/estimates.json", target());
        let text = std::fs::read_to_string(path).ok()?;
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        value["median"]["point_estimate"].as_f64()
    };
    let (frames, sse) = ("1000 frames of 64 B", "SSE, 200-byte events");
    if let Some(bare) = median(frames, "bare") {
        for name in [
            "ObservedBody, nothing to tell",
            "ObservedBody, counting bytes",
        ] {
            if let Some(ours) = median(frames, name) {
                println!(
                    "{name}: {:+.2} ns a frame over bare, {:.2}x bare",
                    (ours - bare) / 1e3,
                    ours / bare
                );
            }
        }
    }
    if let (Some(scanner), Some(bytes)) = (
        median(sse, "Scanner__boundaries"),
        median(sse, "byte by byte"),
    ) {
        println!(
            "Scanner: {:.1} GB/s, {:.1}x byte by byte",
            200_000.0 / scanner,
            bytes / scanner
        );
    }
}

fn target() -> String {
    std::env::var("CARGO_TARGET_DIR")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../target").into())
}
