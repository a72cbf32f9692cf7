//! Clients that stop reading.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, extract::Request, response::Response};
use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower_stream_core::Exchange;

use super::*;

pub(crate) const FRAME: usize = 16 * 1024;

/// Returns this frame so many times, and then, if `hangs`, nothing more and no end. Reports how it ended when it is
/// dropped.
struct Producer {
    frame: Bytes,
    frames: usize,
    hangs: bool,
    exchange: Exchange,
    ended: UnboundedSender<&'static str>,
}

impl http_body::Body for Producer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.frames.checked_sub(1) {
            Some(left) => {
                self.frames = left;
                Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
            }
            None if self.hangs => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames == 0 && !self.hangs
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let cause = self.exchange.cause();
        let kind = cause.map_or("none", |cause| cause.kind().as_str());
        let _ = self.ended.send(kind);
    }
}

/// Routes whose bodies have frames of 16 KiB: `/endless`, `/twenty` with that many, `/pauses` with twenty and no end,
/// `/quiet` with one and no end, `/later` that begins after 10 s, `/silent` with no frame and no end; and `/full` with
/// one frame of 10 MB.
pub(crate) fn producers() -> (Router, UnboundedReceiver<&'static str>) {
    let (ended, ends) = unbounded_channel();
    let produce = move |bytes: usize, frames, hangs| {
        let frame = Bytes::from(vec![b'x'; bytes]);
        let ended = ended.clone();
        get(move |request: Request| async move {
            if request.uri().path() == "/later" {
                sleep(10 * SECOND).await;
            }
            Response::new(Body::new(Producer {
                frame,
                frames,
                hangs,
                exchange: Exchange::get(request.extensions()).unwrap().clone(),
                ended,
            }))
        })
    };
    let routes = Router::new()
        .route("/endless", produce(FRAME, usize::MAX, false))
        .route("/twenty", produce(FRAME, 20, false))
        .route("/pauses", produce(FRAME, 20, true))
        .route("/quiet", produce(FRAME, 1, true))
        .route("/later", produce(FRAME, 1, true))
        .route("/silent", produce(FRAME, 0, true))
        .route("/full", produce(10_000_000, 1, false));
    (routes, ends)
}

/// Waits for the next producer that is dropped, and returns the kind of its cause.
pub(crate) async fn ended(ends: &mut UnboundedReceiver<&'static str>) -> &'static str {
    let ended = timeout(1000 * SECOND, ends.recv()).await;
    ended.expect("the producers are still there").unwrap()
}

const ENDLESS: &str = "GET /endless HTTP/1.1\r\nhost: a\r\n\r\n";

/// Reads at least this many bytes.
async fn read(client: &mut Client, mut bytes: usize) {
    let mut buffer = vec![0; 64 * 1024];
    while bytes > 0 {
        let read = client.io.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "the connection has ended");
        bytes = bytes.saturating_sub(read);
    }
}

#[tokio::test(start_paused = true)]
async fn an_http1_client_that_stops_reading_is_aborted() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server);
    let mut client = rig.connect();
    client.send(ENDLESS).await;
    read(&mut client, 300_000).await;
    let began = Instant::now();
    assert_eq!(ended(&mut ends).await, "slow_reader");
    assert_eq!(began.elapsed().as_secs(), 30);
    rig.idle().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_it_is_not() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server.write_stall(None));
    let mut client = rig.connect();
    client.send(ENDLESS).await;
    let ended = timeout(10_000 * SECOND, ends.recv()).await;
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_slow_or_pauses_is_served() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server);
    let mut client = rig.connect();
    client.send(ENDLESS).await;
    for _ in 0..20 {
        sleep(15 * SECOND).await;
        read(&mut client, 300_000).await;
    }
    // 56 kbit/s
    for _ in 0..1000 {
        sleep(SECOND).await;
        read(&mut client, 7000).await;
    }
    assert!(ends.try_recv().is_err());
    drop(client);
    assert_eq!(ended(&mut ends).await, "none");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_nothing_to_read_is_served() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server.min_rate(1000));
    let mut client = rig.connect();
    client.send("GET /pauses HTTP/1.1\r\nhost: a\r\n\r\n").await;
    // Five times what the pipe between server and client takes, so the rest of it waits in the server.
    sleep(10 * SECOND).await;
    read(&mut client, 20 * FRAME).await;
    let ended = timeout(10_000 * SECOND, ends.recv()).await;
    assert!(ended.is_err(), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_below_the_minimum_rate_is_aborted() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server.min_rate(1000));
    let mut client = rig.connect();
    client.send(ENDLESS).await;
    let mut buffer = [0; 990];
    let mut read = 0;
    while ends.try_recv().is_err() {
        sleep(SECOND).await;
        read += client.io.read(&mut buffer).await.unwrap_or(0);
        assert!(read < 100_000, "still served");
    }
    assert!(read > 19_000, "after 20 s at the earliest: {read}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_at_the_minimum_rate_is_served() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server.min_rate(1000));
    let mut client = rig.connect();
    client.send(ENDLESS).await;
    let mut buffer = [0; 1010];
    for _ in 0..300 {
        sleep(SECOND).await;
        client.io.read_exact(&mut buffer).await.unwrap();
    }
    assert!(ends.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_end_the_guard() {
    let (routes, mut ends) = producers();
    let rig = Rig::start_with(routes, |server| server);
    let mut client = rig.connect();
    client.send(ENDLESS).await;
    read(&mut client, 300_000).await;
    let began = Instant::now();
    rig.drain.start();
    assert_eq!(ended(&mut ends).await, "slow_reader");
    assert_eq!(began.elapsed().as_secs(), 30);
    assert_eq!(rig.drained().await.as_secs(), 30);
}
