//! What idle streams hold and compute, beside axum's `KeepAlive`: `cargo bench -p tower-stream-heartbeat --bench idle`.
//!
//! 10,000 streams behind axum's router, each in a task of its own that reads it; then 5,000 streams of `axum::serve`, each on a
//! connection of its own, whose clients do not read what arrives. The clock is paused, so no time is spent on waiting: what is left is the work
//! of the heartbeats. The thread's CPU time includes the kernel's part of each write.
#![allow(missing_docs, clippy::print_stdout)]

use std::{
    alloc::System,
    convert::Infallible,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

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
use tokio::{net::TcpListener, task::JoinSet};
use tower::ServiceExt;
use tower_stream_bench_support::CpuTime;
use tower_stream_heartbeat::HeartbeatLayer;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const STREAMS: usize = 10_000;
/// Two file descriptors each.
const CONNECTIONS: usize = 5_000;
const INTERVALS: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(15);

/// Bytes held by a stream, nanoseconds computed for a heartbeat of it, and how many heartbeats there were.
type Figures = (usize, f64, usize);

/// One event, and then nothing forever.
fn events() -> Sse<impl futures_util::Stream<Item = Result<Event, Infallible>>> {
    let first = stream::iter([Ok(Event::default().data("some words"))]);
    Sse::new(first.chain(stream::pending()))
}

fn held(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change.bytes_allocated - change.bytes_deallocated
}

async fn idle(app: Router) -> Figures {
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
    let held = held(&region);
    let start = CpuTime.start();
    let heartbeats: usize = readers.join_all().await.into_iter().sum();
    let computed = CpuTime.end(start).as_nanos() as f64;
    (held / STREAMS, computed / heartbeats as f64, heartbeats)
}

async fn idle_connections(app: Router) -> Figures {
    let region = Region::new(ALLOCATOR);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut client = TcpStream::connect(address).expect("a connection");
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
        client.write_all(request).expect("a request");
        client.set_nonblocking(true).expect("a socket");
        clients.push(client);
        // The server accepts it, and answers.
        tokio::task::yield_now().await;
    }
    let mut heartbeats = 0;
    // All streams wait now.
    tokio::time::sleep(INTERVAL / 8).await;
    for client in &mut clients {
        received(client);
    }
    let held = held(&region) - CONNECTIONS * size_of::<TcpStream>();
    let start = CpuTime.start();
    tokio::time::sleep(INTERVAL * INTERVALS + INTERVAL / 2).await;
    let computed = CpuTime.end(start).as_nanos() as f64;
    for client in &mut clients {
        let bytes = received(client);
        heartbeats += bytes.windows(3).filter(|end| end == b"\n\r\n").count();
    }
    server.abort();
    (held / CONNECTIONS, computed / heartbeats as f64, heartbeats)
}

fn received(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = client.read_to_end(&mut bytes);
    bytes
}

fn app(with_layer: bool) -> Router {
    match with_layer {
        true => Router::new()
            .route("/", get(async || events()))
            .layer(HeartbeatLayer::new()),
        false => Router::new().route("/", get(async || events().keep_alive(KeepAlive::new()))),
    }
}

fn table(streams: usize, where_: &str, figures: impl AsyncFn(Router) -> Figures) {
    println!("{streams} idle streams {where_} | bytes a stream | ns a heartbeat | heartbeats");
    for (name, with_layer) in [("axum's KeepAlive", false), ("HeartbeatLayer", true)] {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().start_paused(true).build();
        let (held, computed, heartbeats) = runtime
            .expect("a runtime")
            .block_on(figures(app(with_layer)));
        println!("{name} | {held} | {computed:.0} | {heartbeats}");
    }
}

fn main() {
    table(STREAMS, "in tasks", idle);
    table(CONNECTIONS, "on connections", idle_connections);
}
