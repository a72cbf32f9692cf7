//! Cost of a frame and of a response: without a layer, with tower-http's `Trace` without a subscriber, with
//! axum-prometheus and its body sizes, and with this layer. The rounds are interleaved, so that a busy machine slows
//! all of them alike.
//!
//! `cargo bench -p tower-stream-metrics`
#![allow(missing_docs, clippy::print_stdout)]

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use axum_prometheus::PrometheusMetricLayerBuilder;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group};
use http::{Request, Response};
use http_body::{Body, Frame};
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use tokio::time::Instant;
use tower::{Layer, Service, service_fn};
use tower_http::trace::TraceLayer;
use tower_stream_metrics::StreamMetricsLayer;

const FRAMES: usize = 1000;
const ROUNDS: usize = 60;
const CHUNK: Bytes = Bytes::from_static(&[b'x'; 64]);

/// A body of this many frames, all ready, without a declared length.
struct Frames(usize);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.checked_sub(1) {
            Some(left) => {
                self.0 = left;
                Poll::Ready(Some(Ok(Frame::data(CHUNK))))
            }
            None => Poll::Ready(None),
        }
    }
}

type Nothing = http_body_util::Empty<Bytes>;
type Answer = Ready<Result<Response<Frames>, Infallible>>;

/// Calls a service and reads its body.
fn run<S, B>(service: &mut S) -> usize
where
    S: Service<Request<Nothing>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let future = pin!(service.call(Request::new(Nothing::new())));
    let Poll::Ready(Ok(response)) = future.poll(&mut cx) else {
        panic!("the service is always ready")
    };
    let mut body = pin!(response.into_body());
    let mut bytes = 0;
    while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) {
        bytes += black_box(frame).into_data().map_or(0, |data| data.len());
    }
    bytes
}

type Routine = Box<dyn FnMut() -> usize>;

fn around<L, S, B>(layer: &L, frames: usize) -> Routine
where
    L: Layer<tower::util::ServiceFn<fn(Request<Nothing>) -> Answer>, Service = S>,
    S: Service<Request<Nothing>, Response = Response<B>> + 'static,
    B: Body<Data = Bytes>,
{
    fn one(_: Request<Nothing>) -> Answer {
        ready(Ok(Response::new(Frames(1))))
    }
    fn many(_: Request<Nothing>) -> Answer {
        ready(Ok(Response::new(Frames(FRAMES))))
    }
    let handler: fn(Request<Nothing>) -> Answer = if frames == 1 { one } else { many };
    let mut service = layer.layer(service_fn(handler));
    Box::new(move || run(&mut service))
}

/// Every contender around a response of this many frames. The first one is the base of the comparison.
fn contenders(meter: &Meter, frames: usize) -> Vec<(&'static str, Routine)> {
    let ours = || StreamMetricsLayer::new(meter);
    let all = || ours().producer_wait(true).consumer_hold(true);
    let mut peer = PrometheusMetricLayerBuilder::new().build();
    peer.enable_response_body_size();
    vec![
        ("bare", around(&tower::layer::util::Identity::new(), frames)),
        (
            "tower-http Trace",
            around(&TraceLayer::new_for_http(), frames),
        ),
        ("axum-prometheus", around(&peer, frames)),
        ("off", around(&StreamMetricsLayer::off(), frames)),
        ("no gap", around(&ours().chunk_gap(false), frames)),
        ("default", around(&ours(), frames)),
        ("all options", around(&all(), frames)),
        ("default, bound", around(&ours().bound(true), frames)),
        ("all options, bound", around(&all().bound(true), frames)),
    ]
}

fn provider() -> SdkMeterProvider {
    let reader = PeriodicReader::builder(InMemoryMetricExporter::default()).build();
    SdkMeterProvider::builder().with_reader(reader).build()
}

/// Installs a recorder, as an application does. Otherwise axum-prometheus would record nothing.
fn install_recorder() {
    let recorder = axum_prometheus::metrics_exporter_prometheus::PrometheusBuilder::new();
    let _handle = recorder.install_recorder().expect("the only recorder");
}

fn benches(c: &mut Criterion) {
    let provider = provider();
    let meter = provider.meter("bench");
    let mut group = c.benchmark_group("frames");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for (name, mut routine) in contenders(&meter, FRAMES) {
        group.bench_function(name, |b| b.iter(&mut routine));
    }
    group.finish();
}

/// Nanoseconds and allocations per call, in the best of many interleaved rounds.
fn measure(
    contenders: Vec<(&'static str, Routine)>,
    calls: usize,
) -> Vec<(&'static str, f64, f64)> {
    let mut rows: Vec<_> = contenders
        .into_iter()
        .map(|(name, routine)| (name, routine, f64::INFINITY, 0))
        .collect();
    for _ in 0..ROUNDS {
        for (_, routine, best, _) in &mut rows {
            let start = Instant::now();
            for _ in 0..calls {
                black_box(routine());
            }
            *best = best.min(start.elapsed().as_secs_f64() * 1e9 / calls as f64);
        }
    }
    for (_, routine, _, allocations) in &mut rows {
        let allocated = allocation_counter::measure(|| {
            for _ in 0..calls {
                black_box(routine());
            }
        });
        *allocations = allocated.count_total;
    }
    rows.into_iter()
        .map(|(name, _, best, allocations)| (name, best, allocations as f64 / calls as f64))
        .collect()
}

fn table() {
    let provider = provider();
    let meter = provider.meter("bench");
    let many = measure(contenders(&meter, FRAMES), 5);
    let one = measure(contenders(&meter, 1), 1000);
    let bare = (many[0].1, one[0].1);
    println!(
        "\n| | ns a frame over bare | allocations a frame | ns a response of one frame over bare | allocations a response |"
    );
    println!("|---|---|---|---|---|");
    for ((name, many, allocations), (_, one, allocations_one)) in many.into_iter().zip(one) {
        println!(
            "| {name} | {:.1} | {:.3} | {:.0} | {allocations_one:.1} |",
            (many - bare.0 - (one - bare.1)) / (FRAMES - 1) as f64,
            (allocations - allocations_one) / (FRAMES - 1) as f64,
            one - bare.1,
        );
    }
}

criterion_group!(group, benches);

fn main() {
    install_recorder();
    group();
    // Under `cargo test --benches`, which only checks that everything runs, there is no table.
    if std::env::args().any(|argument| argument == "--bench") {
        table();
    }
}
