//! What resumption costs an event and a reader, beside a task and a `tokio::sync::broadcast` written by hand, which keeps nothing, and
//! the bare body.
//!
//! `cargo bench -p tower-stream-resume`; the last lines are the ratios of this run.
#![allow(missing_docs)]

use std::{convert::Infallible, pin::pin, task::Poll};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::{runtime::Runtime, sync::broadcast};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_stream_bench_support::{CpuTime, Frames, Group};
use tower_stream_resume::{Memory, Resume};

const EVENTS: u32 = 1_000;

fn event() -> Bytes {
    Bytes::from(format!("data: {}\n\n", "x".repeat(64)))
}

/// A body that leaves its task once every 16 frames, as one that waits does.
struct Paced {
    frames: Frames,
    count: u32,
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.count += 1;
        if self.count.is_multiple_of(17) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        pin!(&mut self.frames).poll_frame(cx)
    }
}

fn body() -> Paced {
    Paced {
        frames: Frames::new(event(), EVENTS as usize),
        count: 0,
    }
}

async fn read<B: Body<Data = Bytes> + Unpin>(mut body: B) -> usize {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    bytes
}

/// One stream and all its readers.
async fn resumed(readers: usize) -> usize {
    let resume = Resume::builder(Memory::new()).secret("bench");
    let resume = resume.build();
    let handler = service_fn(async |_: Request<()>| {
        let response = Response::builder().header("content-type", "text/event-stream");
        Ok::<_, Infallible>(response.body(body()).unwrap())
    });
    let first = resume.layer().layer(handler).oneshot(Request::new(()));
    let first = first.await.unwrap();
    let id = first.headers()["stream-id"].to_str().unwrap().to_owned();
    let mut others = FuturesUnordered::new();
    for _ in 1..readers {
        let request = Request::get(format!("/streams/{id}")).body(()).unwrap();
        let other = resume.routes().call(request).await.unwrap();
        others.push(read(other.into_body()));
    }
    let others = async {
        let mut bytes = 0;
        while let Some(read) = others.next().await {
            bytes += read;
        }
        bytes
    };
    let (first, others) = tokio::join!(read(first.into_body()), others);
    first + others
}

async fn by_hand(readers: usize) -> usize {
    let (sender, first) = broadcast::channel::<Bytes>(2 * EVENTS as usize);
    let others: Vec<_> = (1..readers).map(|_| sender.subscribe()).collect();
    tokio::spawn(async move {
        let mut body = body();
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                let _ = sender.send(data);
            }
        }
    });
    let mut all = FuturesUnordered::new();
    for mut receiver in std::iter::once(first).chain(others) {
        all.push(async move {
            let mut bytes = 0;
            while let Ok(data) = receiver.recv().await {
                bytes += data.len();
            }
            bytes
        });
    }
    let mut bytes = 0;
    while let Some(read) = all.next().await {
        bytes += read;
    }
    bytes
}

fn bench(criterion: &mut Criterion<CpuTime>, runtime: &Runtime, readers: u32) {
    let names = ["Resume", "broadcast by hand"];
    let title = format!("{EVENTS} events to {readers} readers");
    let mut group = criterion.benchmark_group(&title);
    group.throughput(Throughput::Elements((EVENTS * readers).into()));
    group.sample_size(10);
    let count = readers as usize;
    group.bench_function("bare", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let mut bytes = 0;
                for _ in 0..count {
                    bytes += read(body()).await;
                }
                bytes
            })
        });
    });
    group.bench_function(names[0], |b| b.iter(|| runtime.block_on(resumed(count))));
    group.bench_function(names[1], |b| b.iter(|| runtime.block_on(by_hand(count))));
    group.finish();
    Group::new(&title).print_over("bare", &names, EVENTS * readers, "reader-event");
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().build().unwrap();
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .configure_from_args();
    bench(&mut criterion, &runtime, 1);
    bench(&mut criterion, &runtime, 100);
    bench(&mut criterion, &runtime, 1_000);
    criterion.final_summary();
}
