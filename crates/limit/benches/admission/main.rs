//! What a limit and a breaker do, and what they cost per response and per frame, beside tower's limit, `tower_governor` and
//! `failsafe`.
//!
//! `cargo bench -p tower-stream-limit`; the last lines are the ratios of this run. With `-- scenarios`, the scenarios only.
#![allow(missing_docs)]

mod scenarios;

use std::{convert::Infallible, hint::black_box, net::SocketAddr, pin::pin};

use axum::{body::Body, extract::ConnectInfo};
use criterion::{Criterion, Throughput};
use failsafe::{Config, futures::CircuitBreaker};
use futures_util::FutureExt;
use http::{Request, Response};
use tower::{ServiceExt, limit::GlobalConcurrencyLimitLayer, service_fn};
use tower_governor::{GovernorLayer, governor::GovernorConfigBuilder};
use tower_layer::{Identity, Layer};
use tower_service::Service;
use tower_stream_bench_support::{CpuTime, Frames, Group, consume};
use tower_stream_core::{Exchange, PeerAddr};
use tower_stream_limit::{BreakerLayer, Rate, StreamLimitLayer};

const FRAMES: u32 = 1_000;

/// A request of a client with an address.
fn request() -> Request<()> {
    let peer = SocketAddr::from(([10, 0, 0, 1], 1));
    let mut request = Request::new(());
    let extensions = request.extensions_mut();
    extensions.insert(PeerAddr(peer));
    extensions.insert(ConnectInfo(peer));
    request
}

/// Responds to a request, in the state in which an outer layer leaves it, and reads the body to its end.
fn serve<S, B>(service: S) -> usize
where
    S: Service<Request<()>, Response = Response<B>>,
    B: http_body::Body<Data = bytes::Bytes>,
{
    let mut request = request();
    request.extensions_mut().insert(Exchange::new());
    let Some(Ok(response)) = service.oneshot(request).now_or_never() else {
        panic!("the service answers at once")
    };
    consume(pin!(response.into_body()))
}

fn bench(criterion: &mut Criterion<CpuTime>, frames: u32, unit: &str) {
    let title = format!("{frames} frames, limited");
    let mut group = criterion.benchmark_group(&title);
    group.throughput(Throughput::Elements(frames.into()));
    let handler = service_fn(move |_: Request<()>| async move {
        let frames = Frames::new("data: some words of a model\n\n", frames as usize);
        Ok::<_, Infallible>(Response::new(Body::new(frames)))
    });
    let mut names = Vec::new();
    macro_rules! candidate {
        ($name:expr, $layer:expr) => {
            let service = $layer.layer(handler);
            group.bench_function($name, |b| {
                b.iter(|| serve(black_box(service.clone())));
            });
            names.push($name);
        };
    }
    candidate!("bare", Identity::new());
    let limit = StreamLimitLayer::new().streams(1_000);
    candidate!("StreamLimitLayer, all", limit);
    candidate!(
        "StreamLimitLayer, all and a key",
        limit.streams_per_key(100)
    );
    let rate = StreamLimitLayer::new().rate_per_key(Rate::per_second(1_000_000_000));
    candidate!("StreamLimitLayer, a rate", rate);
    candidate!("StreamLimitLayer off", StreamLimitLayer::off());
    candidate!("BreakerLayer", BreakerLayer::new());
    candidate!("BreakerLayer off", BreakerLayer::off());
    candidate!(
        "tower ConcurrencyLimit",
        GlobalConcurrencyLimitLayer::new(1_000)
    );
    let config = GovernorConfigBuilder::default()
        .per_nanosecond(1)
        .burst_size(1_000_000)
        .use_headers()
        .finish();
    candidate!(
        "tower_governor",
        GovernorLayer::new(config.expect("a quota"))
    );
    let breaker = Config::new().build();
    let guarded = service_fn(move |request: Request<()>| {
        let breaker = breaker.clone();
        async move { breaker.call(handler.oneshot(request)).await }
    });
    group.bench_function("failsafe", |b| {
        b.iter(|| serve(black_box(guarded.clone())));
    });
    names.push("failsafe");
    group.finish();
    Group::new(&title).print_over("bare", &names[1..], frames, unit);
}

fn main() {
    scenarios::print();
    if std::env::args().any(|argument| argument == "scenarios") {
        return;
    }
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .configure_from_args();
    bench(&mut criterion, FRAMES, "frame");
    bench(&mut criterion, 1, "response");
    criterion.final_summary();
}
