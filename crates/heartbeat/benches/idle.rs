//! What 10,000 idle streams hold and compute, beside axum's `KeepAlive`: `cargo bench -p tower-stream-heartbeat --bench idle`.
//!
//! Both behind axum's router, each stream in a task of its own that reads it. The clock is paused, so no time is spent on waiting:
//! what is left is the work of the heartbeats.
#![allow(missing_docs, clippy::print_stdout)]

use std::{alloc::System, convert::Infallible, time::Duration};

use axum::{
    Router,
    body::Body,
    response::sse::{Event, KeepAlive, Sse},
    routing::get,
};
use criterion::measurement::Measurement;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::BodyExt;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::task::JoinSet;
use tower::ServiceExt;
use tower_stream_bench_support::CpuTime;
use tower_stream_heartbeat::HeartbeatLayer;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const STREAMS: usize = 10_000;
const INTERVALS: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(15);

/// One event, and then nothing forever.
fn events() -> Sse<impl futures_util::Stream<Item = Result<Event, Infallible>>> {
    let first = stream::iter([Ok(Event::default().data("some words"))]);
    Sse::new(first.chain(stream::pending()))
}

/// Bytes held by a stream, nanoseconds computed for a heartbeat of it, and how many heartbeats there were.
async fn idle(app: Router) -> (usize, f64, usize) {
    let region = Region::new(ALLOCATOR);
    let mut readers = JoinSet::new();
    for _ in 0..STREAMS {
        let response = app.clone().oneshot(Request::new(Body::empty())).await;
        let mut body = response.expect("infallible").into_body();
        readers.spawn(async move {
            let mut heartbeats = 0;
            body.frame().await;
            let reads = async {
                while body.frame().await.is_some() {
                    heartbeats += 1;
                }
            };
            let _ = tokio::time::timeout(INTERVAL * INTERVALS + INTERVAL / 2, reads).await;
            heartbeats
        });
    }
    // All streams wait now.
    tokio::time::sleep(INTERVAL / 8).await;
    let change = region.change();
    let held = change.bytes_allocated - change.bytes_deallocated;
    let start = CpuTime.start();
    let heartbeats: usize = readers.join_all().await.into_iter().sum();
    let computed = CpuTime.end(start).as_nanos() as f64;
    (held / STREAMS, computed / heartbeats as f64, heartbeats)
}

fn main() {
    let with_layer = Router::new().route("/", get(async || events()));
    let candidates = [
        (
            "axum's KeepAlive",
            Router::new().route("/", get(async || events().keep_alive(KeepAlive::new()))),
        ),
        ("HeartbeatLayer", with_layer.layer(HeartbeatLayer::new())),
    ];
    println!("{STREAMS} idle streams | bytes a stream | ns a heartbeat | heartbeats");
    for (name, app) in candidates {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build();
        let (held, computed, heartbeats) = runtime.expect("a runtime").block_on(idle(app));
        println!("{name} | {held} | {computed:.0} | {heartbeats}");
    }
}
