//! Cost of a request, a frame and a connection on this server, compared with `axum::serve` and with bare hyper (the
//! version is known, there is no drain and no limit).
//!
//! `cargo bench -p tower-stream-serve`; the last lines of each group are the ratios of this run. The connections are in
//! memory, and the client's work is part of each figure.
#![allow(missing_docs)]

use std::{future::IntoFuture, io, net::SocketAddr};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use criterion::{Criterion, Throughput};
use http::Request;
use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    runtime::Runtime,
    sync::mpsc,
};
use tower_stream_bench_support::{CpuTime, Frames, Group};
use tower_stream_serve::serve;

const FRAMES: u32 = 1_000;
const NAMES: [&str; 2] = ["serve", "axum::serve"];
const BARE: &str = "bare hyper";

type Accepted = (DuplexStream, SocketAddr);

struct Pipes(mpsc::UnboundedReceiver<Accepted>);

impl Pipes {
    async fn next(&mut self) -> Accepted {
        match self.0.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }
}

impl tower_stream_serve::Listener for Pipes {
    type Io = DuplexStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        self.next().await
    }
}

impl axum::serve::Listener for Pipes {
    type Io = DuplexStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([127, 0, 0, 1], 80)))
    }
}

/// A running server.
struct Server(mpsc::UnboundedSender<Accepted>);

impl Server {
    /// Starts one of the candidates.
    fn start(name: &str, version: &str) -> Self {
        let frames = || async { Body::new(Frames::new("data: some words\n\n", FRAMES as usize)) };
        let app = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/frames", get(frames));
        let (connect, pipes) = mpsc::unbounded_channel();
        let mut pipes = Pipes(pipes);
        match name {
            "serve" => drop(tokio::spawn(
                serve(pipes, app).without_signals().into_future(),
            )),
            "axum::serve" => drop(tokio::spawn(axum::serve(pipes, app).into_future())),
            _ => {
                let app = TowerToHyperService::new(app.with_state::<()>(()));
                let http1 = version == "HTTP/1.1";
                tokio::spawn(async move {
                    loop {
                        let (io, app) = (TokioIo::new(pipes.next().await.0), app.clone());
                        if http1 {
                            tokio::spawn(http1::Builder::new().serve_connection(io, app));
                        } else {
                            let builder = http2::Builder::new(TokioExecutor::new());
                            tokio::spawn(builder.serve_connection(io, app));
                        }
                    }
                });
            }
        }
        Self(connect)
    }

    fn connect(&self) -> DuplexStream {
        let (client, server) = duplex(64 * 1024);
        let peer = SocketAddr::from(([192, 0, 2, 1], 4000));
        self.0.send((server, peer)).expect("the server runs");
        client
    }
}

async fn http1_get(client: &mut DuplexStream, path: &str, end: &[u8], buffer: &mut Vec<u8>) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    client.write_all(request.as_bytes()).await.expect("open");
    buffer.clear();
    while !buffer.ends_with(end) {
        assert_ne!(client.read_buf(buffer).await.expect("open"), 0);
    }
}

async fn http2_get(client: &h2::client::SendRequest<Bytes>, path: &str) -> usize {
    let mut client = client.clone().ready().await.expect("open");
    let request = Request::get(format!("http://a{path}")).body(());
    let (response, _) = client
        .send_request(request.expect("valid"), true)
        .expect("open");
    let mut body = response.await.expect("open").into_body();
    let mut bytes = 0;
    while let Some(data) = body.data().await {
        let data = data.expect("open");
        bytes += data.len();
        let _ = body.flow_control().release_capacity(data.len());
    }
    bytes
}

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .configure_from_args();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for version in ["HTTP/1.1", "HTTP/2"] {
        requests(&mut criterion, &runtime, version, "/", 1, "request");
        requests(
            &mut criterion,
            &runtime,
            version,
            "/frames",
            FRAMES,
            "frame",
        );
    }
    connections(&mut criterion, &runtime);
    criterion.final_summary();
}

/// Requests one after the other on one connection.
fn requests(
    criterion: &mut Criterion<CpuTime>,
    runtime: &Runtime,
    version: &str,
    path: &str,
    units: u32,
    unit: &str,
) {
    let title = format!("{version}, GET {path}");
    let mut group = criterion.benchmark_group(&title);
    group.throughput(Throughput::Elements(units.into()));
    for name in [BARE].into_iter().chain(NAMES) {
        let _context = runtime.enter();
        let mut client = Server::start(name, version).connect();
        if version == "HTTP/1.1" {
            let end: &[u8] = if units == 1 {
                b"hello"
            } else {
                b"\r\n0\r\n\r\n"
            };
            let mut buffer = Vec::new();
            group.bench_function(name, |b| {
                b.iter(|| runtime.block_on(http1_get(&mut client, path, end, &mut buffer)));
            });
        } else {
            let client = runtime.block_on(async {
                let (client, connection) = h2::client::handshake(client).await.expect("open");
                tokio::spawn(connection);
                client
            });
            group.bench_function(name, |b| {
                b.iter(|| runtime.block_on(http2_get(&client, path)));
            });
        }
    }
    group.finish();
    Group::new(&title).print_over(BARE, &NAMES, units, unit);
}

/// A connection for each request.
fn connections(criterion: &mut Criterion<CpuTime>, runtime: &Runtime) {
    let title = "HTTP/1.1, a connection";
    let mut group = criterion.benchmark_group(title);
    for name in [BARE].into_iter().chain(NAMES) {
        let _context = runtime.enter();
        let server = Server::start(name, "HTTP/1.1");
        let mut buffer = Vec::new();
        group.bench_function(name, |b| {
            b.iter(|| {
                runtime.block_on(async {
                    let mut client = server.connect();
                    http1_get(&mut client, "/", b"hello", &mut buffer).await;
                });
            });
        });
    }
    group.finish();
    Group::new(title).print_over(BARE, &NAMES, 1, "connection");
}
