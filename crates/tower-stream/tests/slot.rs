//! The compression slot: no digest of other bytes is sent, and no head waits for a long input.
#![cfg(feature = "full")]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Body, response::IntoResponse, routing::get};
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_http::compression::CompressionLayer;
use tower_stream::{
    core::mock::{self, MockBody},
    digest::{DigestValue, Md5},
    prelude::*,
};

fn text() -> String {
    "the same words again and again. ".repeat(4000)
}

fn sha256(data: &[u8]) -> String {
    DigestValue::of::<sha2::Sha256>(data).content_digest()
}

/// The digest fields of the handler, all correct for the uncompressed text.
fn claims() -> Vec<(&'static str, String)> {
    let text = text();
    let md5 = DigestValue::of::<Md5>(&text);
    let both = format!("{}, {}", sha256(text.as_bytes()), md5.content_digest());
    vec![
        ("x-content-md5", md5.hex()),
        ("content-md5", md5.base64()),
        ("content-digest", md5.content_digest()),
        ("content-digest", sha256(text.as_bytes())),
        ("content-digest", both),
        ("repr-digest", sha256(text.as_bytes())),
        ("digest", format!("md5={}", md5.base64())),
    ]
}

/// Every combination of the two digest layers, on and off, and compression.
fn stacks() -> impl Iterator<Item = (String, StreamStack)> {
    [false, true].into_iter().flat_map(|emit| {
        [false, true].map(|verify| {
            let digest = DigestLayer::md5().enabled(emit);
            let check = VerifyDigestLayer::md5().enabled(verify);
            let stack = StreamStack::new().digest(digest).verify(check);
            (format!("emit {emit}, verify {verify}"), stack)
        })
    })
}

struct Got {
    head: HeaderMap,
    trailers: HeaderMap,
    body: Bytes,
}

async fn ask(app: Router, version: Version, coding: &str) -> Got {
    let request = Request::get("/")
        .version(version)
        .header("accept-encoding", coding)
        .body(Body::empty())
        .unwrap();
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let head = response.headers().clone();
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Got {
        head,
        trailers,
        body: collected.to_bytes(),
    }
}

/// Asserts that every digest is of these bytes.
fn assert_true(got: &Got, cell: &str) {
    for fields in [&got.head, &got.trailers] {
        for (name, value) in fields {
            let md5 = DigestValue::of::<Md5>(&got.body);
            let digests = match name.as_str() {
                "x-content-md5" => vec![md5.hex()],
                "content-md5" => vec![md5.base64()],
                "content-digest" | "repr-digest" => {
                    let sha256 = sha256(&got.body);
                    vec![
                        md5.content_digest(),
                        format!("{sha256}, {}", md5.content_digest()),
                        sha256,
                    ]
                }
                "digest" => vec![format!("md5={}", md5.base64())],
                _ => continue,
            };
            let value = value.to_str().unwrap();
            assert!(
                digests.iter().any(|of| of == value),
                "{cell}: {name} {value}"
            );
        }
    }
}

#[tokio::test]
async fn a_digest_in_the_head_stands_on_its_own_bytes_only() {
    for (name, value) in claims() {
        for (switches, stack) in stacks() {
            for (coding, zipped) in [("gzip", true), ("identity", false)] {
                let stack = stack.clone().compression(CompressionLayer::new());
                let claim = value.clone();
                let handler = move || {
                    let claim = [(name, claim.clone()), ("etag", "\"1\"".to_owned())];
                    async move { (claim, text()).into_response() }
                };
                let app = Router::new().route("/", get(handler)).layer(stack);
                let got = ask(app, Version::HTTP_2, coding).await;
                let cell = format!("{name}: {value}, {switches}, {coding}");
                assert_eq!(got.head.contains_key("content-encoding"), zipped, "{cell}");
                let tag = if zipped { "W/\"1\"" } else { "\"1\"" };
                assert_eq!(got.head["etag"], tag, "{cell}");
                if !zipped {
                    assert_eq!(got.head[name], value, "{cell}");
                }
                assert_true(&got, &cell);
            }
        }
    }
}

#[tokio::test]
async fn a_digest_in_the_trailers_stands_on_its_own_bytes_only() {
    for (name, value) in claims() {
        for (switches, stack) in stacks() {
            for (coding, zipped) in [("gzip", true), ("identity", false)] {
                let stack = stack.clone().compression(CompressionLayer::new());
                let claim = value.clone();
                let handler = move || {
                    let steps = [
                        mock::data(text()),
                        mock::pending(),
                        mock::trailer(name, &claim),
                    ];
                    let head = [("content-type", "text/plain"), ("trailer", name)];
                    async move { (head, Body::new(MockBody::new(steps))).into_response() }
                };
                let app = Router::new().route("/", get(handler)).layer(stack);
                let got = ask(app, Version::HTTP_2, coding).await;
                let cell = format!("{name}: {value}, {switches}, {coding}");
                assert_eq!(got.head.contains_key("content-encoding"), zipped, "{cell}");
                if !zipped {
                    assert_eq!(got.trailers[name], value, "{cell}");
                }
                assert_true(&got, &cell);
                // Announced fields are sent.
                for line in got.head.get_all("trailer") {
                    for name in line.to_str().unwrap().split(", ") {
                        assert!(got.trailers.contains_key(name), "{cell}: {line:?}");
                    }
                }
            }
        }
    }
}

/// Changes the bytes but not the head.
#[tokio::test]
async fn another_length_is_other_bytes() {
    let shout = tower::util::MapResponseLayer::new(|response: Response<_>| {
        response.map(|body| {
            Body::new(Body::new(body).map_frame(|frame| frame.map_data(|_| Bytes::from("LOUDER"))))
        })
    });
    let handler = || async {
        (
            [("x-content-md5", DigestValue::of::<Md5>("loud").hex())],
            "loud",
        )
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(StreamStack::off().compression(shout));
    let got = ask(app, Version::HTTP_2, "identity").await;
    assert_eq!(got.body, "LOUDER");
    assert!(!got.head.contains_key("x-content-md5"));
}

/// How much of a long input an encoder has read when the head arrives.
#[tokio::test]
async fn the_head_does_not_wait_for_a_long_input() {
    let frame = Bytes::from(vec![0; 16 * 1024]);
    let frames = 1000;
    let read = Arc::new(AtomicUsize::new(0));
    let handler = {
        let (frame, read) = (frame.clone(), Arc::clone(&read));
        move || {
            let (frame, read) = (frame.clone(), Arc::clone(&read));
            let frames = stream::iter((0..frames).map(move |_| {
                read.fetch_add(frame.len(), Ordering::Relaxed);
                Ok::<_, Infallible>(frame.clone())
            }));
            async move { ([("content-type", "text/plain")], Body::from_stream(frames)) }
        }
    };
    let stack = StreamStack::off()
        .digest(DigestLayer::md5())
        .compression(CompressionLayer::new());
    let app = Router::new().route("/", get(handler)).layer(stack);
    let request = Request::get("/")
        .version(Version::HTTP_2)
        .header("accept-encoding", "gzip")
        .body(Body::empty())
        .unwrap();
    let response = app.oneshot(request).now_or_never();
    let response = response.expect("the head is not held back").unwrap();
    let read = read.load(Ordering::Relaxed);
    assert!(
        read <= 256 * 1024 + 2 * frame.len(),
        "{read} bytes were read"
    );
    assert!(!response.headers().contains_key("content-digest"));
    let collected = response.into_body().collect().await.unwrap();
    let digest = collected.trailers().unwrap()["content-digest"].clone();
    let zipped = collected.to_bytes();
    assert_eq!(digest, DigestValue::of::<Md5>(&zipped).content_digest());
    assert_eq!(gunzip(&zipped), vec![0; frames * frame.len()]);
}

/// Up to 256 KiB of input and 64 KiB of output, the digest is still in the head.
#[tokio::test]
async fn a_ready_body_is_announced_in_the_head() {
    for size in [0, 1, 100_000, 256 * 1024] {
        let handler = move || async move {
            let frames = vec![
                Bytes::from(vec![b'x'; size / 2]),
                Bytes::from(vec![b'x'; size - size / 2]),
            ];
            let frames = stream::iter(frames.into_iter().map(Ok::<_, Infallible>));
            ([("content-type", "text/plain")], Body::from_stream(frames))
        };
        let stack = StreamStack::new()
            .digest(DigestLayer::md5())
            .compression(CompressionLayer::new());
        let app = Router::new().route("/", get(handler)).layer(stack);
        let got = ask(app, Version::HTTP_11, "gzip").await;
        assert_eq!(got.head["content-encoding"], "gzip", "{size}");
        let digest = DigestValue::of::<Md5>(&got.body).content_digest();
        assert_eq!(got.head["content-digest"], digest, "{size}");
        assert_eq!(gunzip(&got.body).len(), size);
    }
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_end(&mut plain)
        .unwrap();
    plain
}
