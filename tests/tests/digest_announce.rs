//! Where the digest of a body arrives, over every protocol: in the head, in the trailers, or nowhere.

use std::{error::Error, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::Response, routing::get};
use bytes::Bytes;
use e2e::{End, Protocol, Request, h1, h2, serve};
use md5::{Digest, Md5};
use parking_lot::Mutex;
use tower_http::compression::CompressionLayer;
use tower_stream_core::{
    StreamEnd,
    mock::{self, MockBody, data, pending, sleep, trailer},
};
use tower_stream_digest::{DigestLayer, Placement, Placements, Sent, VerifyDigestLayer};

type Outcome = Result<(), Box<dyn Error>>;

fn noise(len: usize) -> Bytes {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

fn md5(data: &[u8]) -> String {
    hex::encode(Md5::digest(data))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Head,
    Trailers,
    Nowhere,
}

/// A client: a protocol, and whether it says that it reads trailers.
const CLIENTS: [(Protocol, bool); 4] = [
    (Protocol::Http10, false),
    (Protocol::Http11, false),
    (Protocol::Http11, true),
    (Protocol::Http2, false),
];

async fn place(
    client: (Protocol, bool),
    size: usize,
    paced: bool,
    length: bool,
) -> Result<At, Box<dyn Error>> {
    let sent: Arc<Mutex<Vec<Sent>>> = Arc::default();
    let into = Arc::clone(&sent);
    let layer = DigestLayer::md5().on_sent(move |sent| into.lock().push(sent.clone()));
    let app = Router::new().route(
        "/",
        get(move || async move {
            let whole = noise(size);
            let frames = (0..size)
                .step_by(10_000)
                .map(|at| whole.slice(at..(at + 10_000).min(size)));
            let steps =
                frames.flat_map(|frame| paced.then(pending).into_iter().chain([data(frame)]));
            let mut head = Response::builder();
            if length {
                head = head.header("content-length", size);
            }
            head.body(Body::new(MockBody::new(steps))).unwrap()
        }),
    );
    let server = serve(app.layer(layer)).await?;
    let mut request = Request::get("/");
    if client.1 {
        request = request.header("TE", "trailers").header("Connection", "TE");
    }
    let answer = client.0.send(server.addr(), &request).await?;
    server.shutdown().await;

    let cell = format!("{client:?}, {size} bytes, paced {paced}, length {length}");
    let expected = md5(&noise(size));
    assert!(answer.body() == noise(size), "{cell}");
    assert!(
        answer.end.is_whole() || client.0 == Protocol::Http10,
        "{cell}: {}",
        answer.end
    );
    let sent = sent.lock();
    assert_eq!(sent.len(), 1, "{cell}");
    assert_eq!(
        (&sent[0].end, sent[0].digest.unwrap().hex()),
        (&StreamEnd::Complete, expected.clone()),
        "{cell}"
    );

    let head = answer.header("x-content-md5").map(str::to_owned);
    let tail = answer.trailer("x-content-md5").map(str::to_owned);
    let at = match (head, tail) {
        (Some(digest), None) if digest == expected => At::Head,
        (None, Some(digest)) if digest == expected => At::Trailers,
        (None, None) => At::Nowhere,
        other => panic!("{cell}: {other:?}"),
    };
    let placement = match at {
        At::Head => Placement::Header,
        At::Trailers => Placement::Trailer,
        At::Nowhere => Placement::Unannounced,
    };
    assert_eq!(sent[0].placement, placement, "{cell}");
    // A declared length is kept, except over HTTP/1.1 if the digest is in the trailers, which need chunked encoding.
    let chunks = at == At::Trailers && client.0 == Protocol::Http11;
    if length {
        assert_eq!(answer.header("content-length").is_some(), !chunks, "{cell}");
    }
    let trailers = at == At::Trailers;
    assert_eq!(answer.header("trailer").is_some(), trailers, "{cell}");
    Ok(at)
}

#[tokio::test]
async fn the_digest_goes_where_it_arrives() -> Outcome {
    for client in CLIENTS {
        for length in [true, false] {
            for size in [0, 1, 64 * 1024] {
                assert_eq!(place(client, size, false, length).await?, At::Head);
            }
            for (size, paced) in [(1, true), (64 * 1024 + 1, false), (300_000, true)] {
                let expected = match client {
                    (Protocol::Http2, _) | (_, true) => At::Trailers,
                    _ => At::Nowhere,
                };
                assert_eq!(
                    place(client, size, paced, length).await?,
                    expected,
                    "{client:?}, {size}, {length}"
                );
            }
        }
    }
    Ok(())
}

/// Byte for byte what an HTTP/1.1 client that reads trailers gets.
#[tokio::test]
async fn trailers_on_the_wire() -> Outcome {
    let slow = || async {
        Body::new(MockBody::new([
            data("hel"),
            sleep(Duration::from_millis(20)),
            data("lo"),
        ]))
    };
    let server = serve(
        Router::new()
            .route("/", get(slow))
            .layer(DigestLayer::md5()),
    )
    .await?;
    let mut connection = h1::Connection::open(server.addr()).await?;
    connection
        .send(&Request::get("/").header("TE", "trailers"))
        .await?;
    let answer = connection.reply().await?.finish().await;
    let raw = String::from_utf8(answer.raw.to_vec())?;
    let (head, body) = raw.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("\r\ntrailer: content-digest, x-content-md5"),
        "{head}"
    );
    assert_eq!(
        body,
        "3\r\nhel\r\n2\r\nlo\r\n0\r\ncontent-digest: md5=:XUFAKrxLKna5cZ2REBfFkg==:\r\n\
         x-content-md5: 5d41402abc4b2a76b9719d911017c592\r\n\r\n"
    );
    // The connection can be used for another request.
    connection
        .send(&Request::get("/").header("TE", "trailers"))
        .await?;
    assert_eq!(connection.reply().await?.finish().await.end, End::LastChunk);
    Ok(())
}

#[tokio::test]
async fn trailers_of_a_grpc_style_body_are_merged() -> Outcome {
    let call = || async {
        Body::new(MockBody::new([
            pending(),
            data("\0\0\0\0\x02ok"),
            trailer("grpc-status", "0"),
        ]))
    };
    let server = serve(
        Router::new()
            .route("/", get(call))
            .layer(DigestLayer::md5()),
    )
    .await?;
    let mut connection = h2::Connection::open(server.addr()).await?;
    let answer = connection
        .send(&Request::get("/"))
        .await?
        .reply()
        .await?
        .finish()
        .await;
    assert_eq!(answer.end, End::EndStream);
    assert_eq!(answer.trailer("grpc-status"), Some("0"));
    assert_eq!(
        answer.trailer("x-content-md5"),
        Some(&*md5(b"\0\0\0\0\x02ok"))
    );
    Ok(())
}

#[tokio::test]
async fn a_stream_that_breaks_announces_nothing() -> Outcome {
    let breaking = || async {
        Body::new(MockBody::new([
            data("half"),
            sleep(Duration::from_millis(20)),
            mock::error("disk"),
        ]))
    };
    let layer = DigestLayer::md5();
    let server = serve(Router::new().route("/", get(breaking)).layer(layer.clone())).await?;
    for protocol in [Protocol::Http11, Protocol::Http2] {
        let request = Request::get("/").header("TE", "trailers");
        let answer = protocol.send(server.addr(), &request).await?;
        assert!(answer.end.is_cut(), "{protocol:?}: {}", answer.end);
        assert!(answer.trailers.is_empty() && answer.header("x-content-md5").is_none());
    }
    assert_eq!(
        layer.placements(),
        Placements {
            unannounced: 2,
            ..Placements::default()
        }
    );
    Ok(())
}

/// With a digest layer outside of a check, the digest that the client receives is that of the bytes that it receives.
#[tokio::test]
async fn compression_between_promise_and_announcement() -> Outcome {
    let promised = || async {
        let body = noise(300).repeat(1000);
        let promise = md5(&body);
        let frames: Vec<_> = body.chunks(30_000).map(Bytes::copy_from_slice).collect();
        let steps = frames
            .into_iter()
            .flat_map(|frame| [pending(), data(frame)]);
        Response::builder()
            .header("x-content-md5", promise)
            .body(Body::new(MockBody::new(steps)))
            .unwrap()
    };
    let app = Router::new()
        .route("/", get(promised))
        .layer(VerifyDigestLayer::md5())
        .layer(CompressionLayer::new())
        .layer(DigestLayer::md5());
    let server = serve(app).await?;
    for protocol in [Protocol::Http11, Protocol::Http2] {
        let plain = protocol
            .send(server.addr(), &Request::get("/").header("TE", "trailers"))
            .await?;
        assert_eq!(
            plain.header("x-content-md5"),
            Some(&*md5(&plain.body())),
            "{protocol:?}: the promise, passed on"
        );

        let request = Request::get("/")
            .header("TE", "trailers")
            .header("Accept-Encoding", "gzip");
        let zipped = protocol.send(server.addr(), &request).await?;
        assert_eq!(zipped.header("content-encoding"), Some("gzip"));
        assert_ne!(zipped.body(), plain.body());
        let announced = zipped
            .header("x-content-md5")
            .or(zipped.trailer("x-content-md5"));
        assert_eq!(
            announced,
            Some(&*md5(&zipped.body())),
            "{protocol:?}: of what was sent"
        );
    }
    Ok(())
}
