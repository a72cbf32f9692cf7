//! Clients that send a request body slowly.

use axum::{body::Body, extract::Request, routing::post};
use bytes::Bytes;
use h2::client;
use http_body::Body as _;
use std::{future::poll_fn, pin::Pin};
use tower_stream_core::Cause;

use super::*;

/// `/upload` reads the request body, and answers with its length or with the kind of its failure; `/echo` returns it;
/// `/later` asks for it once, comes back to it after a minute, and answers like `/upload`.
fn routes() -> Router {
    Router::new()
        .route(
            "/upload",
            post(|request: Request| length(request.into_body())),
        )
        .route("/later", post(later))
        .route(
            "/echo",
            post(|request: Request| async { request.into_body() }),
        )
}

async fn later(request: Request) -> String {
    let mut body = request.into_body();
    let first = poll_fn(|cx| std::task::Poll::Ready(Pin::new(&mut body).poll_frame(cx)));
    assert!(first.await.is_pending());
    sleep(60 * SECOND).await;
    length(body).await
}

async fn length(mut body: Body) -> String {
    let mut length = 0;
    // hyper reports the end of a complete body by `None` only when the next request arrives, if the response has been sent.
    while !body.is_end_stream()
        && let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
    {
        match frame {
            Ok(frame) => length += frame.into_data().unwrap().len(),
            Err(error) => return Cause::of(&error).kind().as_str().to_owned(),
        }
    }
    length.to_string()
}

fn rig() -> Rig {
    Rig::start_with(routes(), |server| server.min_rate(240))
}

fn head(path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 30000\r\n{more}\r\n")
}

/// Sends so many bytes each second until all 30,000 are sent, or the server has closed the connection.
async fn trickle(client: &mut Client, bytes: usize) -> String {
    let mut left = 30_000;
    let mut response = Vec::new();
    while left > 0 {
        let now = bytes.min(left);
        left -= now;
        client.send(vec![b'x'; now]).await;
        let next = sleep(SECOND);
        let mut next = std::pin::pin!(next);
        let closed = loop {
            tokio::select! {
                read = client.io.read_buf(&mut response) => if read.unwrap() == 0 { break true },
                () = next.as_mut() => break false,
            }
        };
        if closed {
            break;
        }
    }
    let _ = client.io.read_to_end(&mut response).await;
    String::from_utf8(response).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_body_below_the_minimum_rate_fails_and_the_connection_is_closed() {
    let rig = rig();
    let mut client = rig.connect();
    client.send(head("/upload", "")).await;
    let response = trickle(&mut client, 200).await;
    assert!(response.ends_with("\r\n\r\nslow_upload"), "{response}");
    assert!(response.contains("\r\nconnection: close\r\n"), "{response}");
    assert_eq!(client.began.elapsed().as_secs(), 20);
    rig.idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_of_its_body_is_slow_too() {
    let rig = rig();
    let mut client = rig.connect();
    client.send(head("/upload", "")).await;
    let (response, after) = client.closed().await;
    assert!(response.ends_with(b"\r\n\r\nslow_upload"));
    assert_eq!(after.as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_response_made_of_a_slow_request_body_ends_with_it() {
    let rig = rig();
    let mut client = rig.connect();
    client.send(head("/echo", "")).await;
    let response = trickle(&mut client, 200).await;
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    assert!((3_000..6_000).contains(&body.len()), "{}", body.len());
    rig.idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_body_at_the_minimum_rate_is_served() {
    let rig = rig();
    let mut client = rig.connect();
    client.send(head("/upload", "connection: close\r\n")).await;
    let response = trickle(&mut client, 250).await;
    assert!(response.ends_with("\r\n\r\n30000"), "{response}");
    assert!(client.began.elapsed() > 110 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn without_a_minimum_rate_it_may_take_its_time() {
    let rig = Rig::start_with(routes(), |server| server);
    let mut client = rig.connect();
    client.send(head("/upload", "connection: close\r\n")).await;
    let response = trickle(&mut client, 50).await;
    assert!(response.ends_with("\r\n\r\n30000"), "{response}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_read_on_after_its_response() {
    let (read, mut reads) = mpsc::unbounded_channel();
    let accept = move |request: Request| async move {
        tokio::spawn(async move { read.send(length(request.into_body()).await).unwrap() });
        "accepted"
    };
    let routes = Router::new().route("/accept", post(accept));
    let rig = Rig::start_with(routes, |server| {
        let timeout = 5 * SECOND;
        server.header_timeout(timeout).idle_timeout(timeout)
    });
    let mut client = rig.connect();
    client.send(head("/accept", "")).await;
    let response = trickle(&mut client, 1000).await;
    assert!(response.ends_with("\r\n\r\naccepted"), "{response}");
    assert_eq!(reads.recv().await.unwrap(), "30000");
    let took = client.began.elapsed().as_secs();
    assert_eq!(took, 34, "5 s after the last byte");
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_handler_takes_is_not_the_clients() {
    let rig = rig();
    let mut client = rig.connect();
    client.send(head("/later", "connection: close\r\n")).await;
    sleep(SECOND).await;
    client.send([b'x'; 100]).await;
    sleep(60 * SECOND).await;
    let response = trickle_rest(&mut client).await;
    assert!(response.ends_with("\r\n\r\n30000"), "{response}");
}

/// Sends the last 29,900 bytes, 5 s after the handler waits for them.
async fn trickle_rest(client: &mut Client) -> String {
    sleep(5 * SECOND).await;
    client.send(vec![b'x'; 29_900]).await;
    let (response, _) = client.closed().await;
    String::from_utf8(response).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_may_wait_for_its_next_message() {
    let rig = rig();
    let mut client = rig.connect();
    let grpc = "content-type: application/grpc+proto\r\nconnection: close\r\n";
    client.send(head("/upload", grpc)).await;
    let response = trickle(&mut client, 100).await;
    assert!(response.ends_with("\r\n\r\n30000"), "{response}");
}

#[tokio::test(start_paused = true)]
async fn over_http2_only_the_slow_stream_fails() {
    let rig = rig();
    let handshake = client::handshake(rig.connect().io).await;
    let (mut requests, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let mut begin = || {
        let request = http::Request::post("http://a/upload").body(()).unwrap();
        requests.send_request(request, false).unwrap()
    };
    let (slow, mut slowly) = begin();
    let (steady, mut steadily) = begin();
    tokio::spawn(async move {
        for _ in 0..60 {
            steadily
                .send_data(Bytes::from_static(&[b'x'; 300]), false)
                .unwrap();
            sleep(SECOND).await;
        }
        steadily.send_data(Bytes::new(), true).unwrap();
    });
    slowly.send_data(Bytes::from_static(b"x"), false).unwrap();
    let began = Instant::now();
    let slow = timeout(1000 * SECOND, slow).await;
    let slow = slow.expect("it has not failed").unwrap();
    assert_eq!(text(slow).await, "slow_upload");
    assert_eq!(began.elapsed().as_secs(), 20);
    assert_eq!(text(steady.await.unwrap()).await, "18000");
}

async fn text(response: http::Response<h2::RecvStream>) -> String {
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data.unwrap());
    }
    String::from_utf8(text).unwrap()
}
