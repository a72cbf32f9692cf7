//! A tonic service inside of the whole stack: its own statuses and trailers stay, and what fails has one.

use std::{convert::Infallible, time::Duration};

use ::tonic::{Code, Request, Response, Status};
use bytes::Bytes;
use e2e::{PATIENCE, TestServer, h2, serve};
use futures_util::{Stream, StreamExt, stream};
use hyper::body::Incoming;
use tokio::time::{sleep, timeout};
use tower::{Layer, service_fn};
use tower_http::compression::CompressionLayer;
use tower_stream::{metrics::names, prelude::*};

use crate::{
    grpc::{Raw, call},
    layers::{Piece, Stack, Telemetry},
};

const FAILED: &str = "the response failed on the server";

/// Two messages, then what the method says.
fn messages(method: String) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    stream::unfold(0, move |n| {
        let method = method.clone();
        async move {
            // Yield, so that each message becomes a frame of its own.
            tokio::task::yield_now().await;
            match method.as_str() {
                _ if n < 2 => Some((Ok(Bytes::from(format!("message {n}"))), n + 1)),
                "/t.T/Panic" => panic!("scripted"),
                "/t.T/Hang" => std::future::pending().await,
                "/t.T/Own" if n == 2 => Some((Err(Status::resource_exhausted("mine")), n + 1)),
                _ => None,
            }
        }
    })
}

async fn handle(
    request: http::Request<Incoming>,
) -> Result<http::Response<::tonic::body::Body>, Infallible> {
    let method = request.uri().path().to_owned();
    if method == "/t.T/Handler" {
        panic!("scripted");
    }
    let mut server = ::tonic::server::Grpc::new(Raw);
    if let Some(unary) = method.strip_prefix("/t.T/Unary") {
        let own = unary == "Own";
        let answer = service_fn(move |request: Request<Bytes>| async move {
            match own {
                true => Err(Status::not_found("mine")),
                false => Ok(Response::new(request.into_inner())),
            }
        });
        return Ok(server.unary(answer, request).await);
    }
    let answer = service_fn(move |_: Request<Bytes>| {
        let messages = messages(method.clone()).boxed();
        async move { Ok::<_, Status>(Response::new(messages)) }
    });
    Ok(server.server_streaming(answer, request).await)
}

async fn start(telemetry: &Telemetry, drain: &Drain) -> TestServer {
    let stack = StreamStack::new()
        .metrics(StreamMetricsLayer::new(&telemetry.meter()))
        .chunk_span(ChunkSpanLayer::new(telemetry.tracer()))
        .drain(drain)
        .digest(DigestLayer::md5())
        .compression(CompressionLayer::new())
        .sequence(SequenceLayer::new())
        .verify(VerifyDigestLayer::md5());
    let server = serve(stack.layer(service_fn(handle))).await;
    server.expect("a free port")
}

/// One call is over, and span and metrics tell the same of it.
async fn told(telemetry: &Telemetry, drain: &Drain, end: &str) {
    let idle = timeout(PATIENCE, async {
        while drain.in_flight() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    });
    idle.await.expect("the call ends");
    assert_eq!(telemetry.spans(), [end]);
    telemetry.log().check(&Stack::new(Piece::OURS), end, 1);
    let active = telemetry.sums(names::STREAM_ACTIVE);
    assert!(active.values().all(|count| *count == 0), "{active:?}");
}

#[tokio::test]
async fn statuses_and_outcomes() {
    let telemetry = Telemetry::new();
    let drain = Drain::builder()
        .advertise(Duration::ZERO)
        .deadline(PATIENCE)
        .build();
    let server = start(&telemetry, &drain).await;
    for (method, messages, code, text, end) in [
        ("/t.T/Unary", 1, Code::Ok, "", "complete"),
        (
            "/t.T/UnaryOwn",
            0,
            Code::NotFound,
            "mine",
            "error NOT_FOUND",
        ),
        ("/t.T/Fine", 2, Code::Ok, "", "complete"),
        (
            "/t.T/Own",
            2,
            Code::ResourceExhausted,
            "mine",
            "error RESOURCE_EXHAUSTED",
        ),
        ("/t.T/Panic", 2, Code::Internal, FAILED, "panic panic"),
        ("/t.T/Handler", 0, Code::Internal, FAILED, "panic panic"),
    ] {
        let (got, status) = call(&server, method).await;
        let got = (got.len(), status.code(), status.message());
        assert_eq!(got, (messages, code, text), "{method}");
        told(&telemetry, &drain, end).await;
    }

    let hanging = call(&server, "/t.T/Hang");
    let start = async {
        while drain.in_flight() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        // Wait until the messages have arrived, on a busy machine too.
        sleep(Duration::from_secs(1)).await;
        drain.start_within(Duration::ZERO);
    };
    let ((got, status), ()) = tokio::join!(hanging, start);
    assert_eq!((got.len(), status.code()), (2, Code::Unavailable));
    told(&telemetry, &drain, "aborted drain").await;

    let counted: Vec<_> = telemetry.sums(names::STREAM_COUNT).into_iter().collect();
    let expected = [
        ("_unmatched aborted drain", 1),
        ("_unmatched complete", 2),
        ("_unmatched error NOT_FOUND", 1),
        ("_unmatched error RESOURCE_EXHAUSTED", 1),
        ("_unmatched panic panic", 2),
    ];
    assert_eq!(counted, expected.map(|(end, n)| (end.to_owned(), n)));
}

/// The status is where tonic put it, and the digest of what was sent in the head or beside it.
#[tokio::test]
async fn status_and_digest_in_the_trailers() {
    let telemetry = Telemetry::new();
    let drain = Drain::builder().build();
    let server = start(&telemetry, &drain).await;
    let mut client = h2::Connection::open(server.addr())
        .await
        .expect("it listens");
    let request = e2e::Request::post("/t.T/Fine", &b"\0\0\0\0\x03ask"[..])
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let stream = client.send(&request).await.expect("a request is taken");
    let response = stream.reply().await.expect("a head").finish().await;
    assert!(response.end.is_whole(), "{}", response.end);
    assert_eq!(
        response.body(),
        &b"\0\0\0\0\x09message 0\0\0\0\0\x09message 1"[..]
    );
    assert_eq!(response.trailer("grpc-status"), Some("0"));
    use md5::Digest as _;
    let digest = hex::encode(md5::Md5::digest(response.body()));
    let announced = response
        .header("x-content-md5")
        .or_else(|| response.trailer("x-content-md5"));
    assert_eq!(announced, Some(digest.as_str()), "{response:?}");
    told(&telemetry, &drain, "complete").await;
}
