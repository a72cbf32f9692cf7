//! What a wrapper costs a frame, and how fast boundaries are found.
//!
//! `cargo bench -p tower-stream-core`; the last lines are the ratios of this run.
#![allow(missing_docs, clippy::print_stdout)]

use std::{convert::Infallible, future::ready, hint::black_box, pin::pin};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;
use tower_stream_bench_support::{Frames, Group, consume};
use tower_stream_core::{
    Exchange, RecordFormat, RecordHold,
    boundary::Scanner,
    wrapper::{Begin, Hook, Piece, Stage, Wrapped},
};

const FRAMES: u32 = 1_000;
const BODIES: &str = "1000 frames of 64 B";
const EVENTS: &str = "1000 SSE events of 200 B";

#[derive(Clone)]
struct Nothing;
impl Stage for Nothing {}

#[derive(Clone)]
struct Count(u64);
impl Stage for Count {
    fn on_piece(&mut self, piece: &Piece) {
        self.0 += piece.data().map_or(0, |data| data.len() as u64);
    }
}

/// A layer that follows each request with the stage that this makes.
#[derive(Clone)]
struct Follow<T>(fn() -> T);

impl<T: Stage + Clone> Hook for Follow<T> {
    type Stage = T;
    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<T> {
        Begin::Follow((self.0)())
    }
}

fn frames() -> Frames {
    Frames::new(&[b'x'; 64][..], FRAMES as usize)
}

fn wrapped<T: Stage + Clone>(stage: fn() -> T) -> impl Body<Data = Bytes> {
    let handler =
        tower::service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(frames()))));
    let response = Wrapped::new(handler, Follow(stage)).call(Request::new(()));
    match response.now_or_never() {
        Some(Ok(response)) => response.into_body(),
        None => unreachable!("the handler answers at once"),
    }
}

fn bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group(BODIES);
    group.throughput(Throughput::Elements(FRAMES.into()));
    group.bench_function("bare", |b| b.iter(|| consume(pin!(frames()))));
    group.bench_function("wrapped", |b| {
        b.iter(|| consume(pin!(wrapped(|| Nothing))));
    });
    group.bench_function("wrapped and counted", |b| {
        b.iter(|| consume(pin!(wrapped(|| Count(0)))));
    });
    group.finish();
}

fn boundaries(c: &mut Criterion) {
    let event = format!("event: token\ndata: {}\n\n", "x".repeat(179));
    assert_eq!(event.len(), 200);
    let events = event.repeat(1_000);
    let mut group = c.benchmark_group(EVENTS);
    group.throughput(Throughput::Bytes(events.len() as u64));
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
    group.bench_function("Scanner", |b| {
        b.iter(|| {
            let mut scanner = Scanner::new(RecordFormat::Sse);
            let found = scanner.boundaries(black_box(events.as_bytes())).count();
            assert_eq!(found, 1_000);
        });
    });
    let event = Bytes::from(event);
    group.bench_function("RecordHold, an event a chunk", |b| {
        b.iter(|| {
            let mut hold = RecordHold::new(RecordFormat::Sse, RecordHold::DEFAULT_CAP);
            for _ in 0..1_000 {
                black_box(hold.push(event.clone()));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, bodies, boundaries);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    Group::new(BODIES).print_over("bare", &["wrapped", "wrapped and counted"], FRAMES, "frame");
    let events = Group::new(EVENTS);
    events.print_over(
        "byte by byte",
        &["Scanner", "RecordHold, an event a chunk"],
        1_000,
        "event",
    );
    if let Some(scanner) = events.median("Scanner") {
        println!("Scanner: {:.1} GB/s", 200_000.0 / scanner);
    }
}
