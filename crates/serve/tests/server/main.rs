//! The server on connections in memory, under a paused clock.

mod accept;
mod http2;
mod silence;
mod stall;
mod stall_h2;
mod tls;
mod tunnel;
#[cfg(unix)]
mod unix;
mod upload;

use std::{future::IntoFuture, io, net::SocketAddr, time::Duration};

use axum::{Router, extract::ConnectInfo, routing::get};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tower_stream_drain::Drain;
use tower_stream_serve::{Listener, Report, Serve, serve};

const SECOND: Duration = Duration::from_secs(1);

/// What an HTTP/2 connection begins with, an empty SETTINGS frame included.
const H2_START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// HEADERS of stream 1: GET, http, `/`, as indexes of the static table.
const H2_GET: &[u8] = b"\0\0\x03\x01\x05\0\0\0\x01\x82\x86\x84";

/// Accepts what a test connects.
struct Pipes(mpsc::UnboundedReceiver<(DuplexStream, SocketAddr)>);

impl Listener for Pipes {
    type Io = DuplexStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (DuplexStream, SocketAddr) {
        match self.0.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }
}

struct Rig {
    drain: Drain,
    connect: mpsc::UnboundedSender<(DuplexStream, SocketAddr)>,
    serving: JoinHandle<io::Result<Report>>,
}

impl Rig {
    /// Advertises for a second, and must be over after a minute.
    fn start(set: impl FnOnce(Serve<Pipes, Router>) -> Serve<Pipes, Router>) -> Self {
        Self::start_with(Router::new(), set)
    }

    fn start_with(
        routes: Router,
        set: impl FnOnce(Serve<Pipes, Router>) -> Serve<Pipes, Router>,
    ) -> Self {
        let drain = Drain::builder()
            .advertise(SECOND)
            .deadline(60 * SECOND)
            .build();
        let routes = routes
            .route("/", get(|| async { "hello" }))
            .route(
                "/peer",
                get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
            )
            .route(
                "/slow",
                get(|| async {
                    sleep(200 * SECOND).await;
                    "slow"
                }),
            )
            .route("/never", get(std::future::pending::<()>))
            .layer(drain.layer());
        let (connect, pipes) = mpsc::unbounded_channel();
        let server = set(serve(Pipes(pipes), routes).drain(&drain).without_signals());
        Self {
            drain,
            connect,
            serving: tokio::spawn(server.into_future()),
        }
    }

    fn connect_from(&self, address: &str) -> Client {
        let (client, server) = duplex(64 * 1024);
        let peer = SocketAddr::new(address.parse().unwrap(), 4000);
        self.connect.send((server, peer)).unwrap();
        Client {
            io: client,
            began: Instant::now(),
        }
    }

    fn connect(&self) -> Client {
        self.connect_from("192.0.2.1")
    }

    /// Waits until no request is in flight.
    async fn idle(&self) {
        let idle = timeout(SECOND, self.drain.idle()).await;
        idle.expect("a request is still in flight");
    }

    /// How long the drain took.
    async fn drained(self) -> Duration {
        self.drain.start();
        self.serving.await.unwrap().unwrap().took
    }
}

struct Client {
    io: DuplexStream,
    began: Instant,
}

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.io.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends a GET and reads its response, which ends with this.
    async fn get(&mut self, path: &str, end: &str) -> String {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"))
            .await;
        let mut response = Vec::new();
        while !response.ends_with(end.as_bytes()) {
            if self.io.read_buf(&mut response).await.unwrap() == 0 {
                break;
            }
        }
        String::from_utf8(response).unwrap()
    }

    /// Waits for the end: what was received until then, and how long after the beginning of the connection.
    async fn closed(&mut self) -> (Vec<u8>, Duration) {
        let mut received = Vec::new();
        // An abort is as good an end. A connection that never ends fails its test here, by the clock of the test.
        let end = timeout(100_000 * SECOND, self.io.read_to_end(&mut received));
        let _ = end.await.expect("the connection is still open");
        (received, self.began.elapsed())
    }
}

/// The types of the HTTP/2 frames in these bytes.
fn h2_frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [a, b, c, kind, rest @ ..] = bytes {
        types.push(*kind);
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        bytes = &rest[5 + length..];
    }
    types
}
