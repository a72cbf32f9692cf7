//! Errors and panics after the head.

use std::{error::Error, sync::Arc, time::Duration};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use e2e::{End, Protocol, Request, Response, h1, h2, serve};
use futures_util::{StreamExt, stream};
use tokio::sync::Notify;
use tower_stream_core::mock::{self, MockBody, data, pending, sleep};

use super::{FLUSH, Outcome, play};

type BoxError = Box<dyn Error + Send + Sync>;

/// What arrived of the body, whether or not a head did, and the end.
fn body_and_end(result: Result<Response, End>) -> (String, End) {
    match result {
        Ok(response) => (response.text(), response.end),
        Err(end) => (String::new(), end),
    }
}

fn internal_error() -> End {
    End::Reset(h2::Reason::INTERNAL_ERROR)
}

fn cancel() -> End {
    End::Reset(h2::Reason::CANCEL)
}

/// A body of `a`, and then, once the client has that, of what `then` does.
async fn gated<F>(protocol: Protocol, then: F) -> Result<Response, End>
where
    F: FnOnce() -> Option<Result<Bytes, BoxError>> + Clone + Send + Sync + 'static,
{
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let handler = async move || {
        let first = stream::once(async { Some(Ok(Bytes::from_static(b"a"))) });
        let second = stream::once(async move {
            opened.notified().await;
            then()
        });
        Body::from_stream(first.chain(second).filter_map(std::future::ready))
    };
    let server = serve(Router::new().route("/", get(handler))).await?;
    let request = Request::get("/");
    match protocol {
        Protocol::Http2 => {
            let mut connection = h2::Connection::open(server.addr()).await?;
            let mut reply = connection.send(&request).await?.reply().await?;
            reply.chunk().await;
            gate.notify_one();
            Ok(reply.finish().await)
        }
        _ => {
            let request = if protocol == Protocol::Http10 {
                request.http10()
            } else {
                request
            };
            let mut connection = h1::Connection::open(server.addr()).await?;
            connection.send(&request).await?;
            let mut reply = connection.reply().await?;
            reply.chunk().await;
            gate.notify_one();
            Ok(reply.finish().await)
        }
    }
}

#[tokio::test]
async fn an_error_after_flushed_data_is_seen_except_on_http10() -> Outcome {
    for (protocol, end) in [
        (Protocol::Http10, End::Closed),
        (Protocol::Http11, End::Truncated),
        (Protocol::Http2, internal_error()),
    ] {
        let response = gated(protocol, || Some(Err("broken".into()))).await?;
        assert_eq!(
            (response.text().as_str(), response.end),
            ("a", end),
            "{protocol:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_panic_in_the_body_resembles_an_error_on_h1_and_the_clients_own_cancel_on_h2() -> Outcome
{
    for (protocol, end) in [
        (Protocol::Http11, End::Truncated),
        (Protocol::Http2, cancel()),
    ] {
        let response = gated(protocol, || panic!("asked to")).await?;
        assert_eq!(
            (response.text().as_str(), response.end),
            ("a", end),
            "{protocol:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_error_at_the_first_poll_leaves_not_even_a_status() {
    let script = || [mock::error("broken")];
    assert_eq!(
        play(Protocol::Http11, script).await.map(|r| r.end),
        Err(End::Closed)
    );
    let h2 = play(Protocol::Http2, script).await;
    assert_eq!(body_and_end(h2), (String::new(), internal_error()));
}

#[tokio::test]
async fn a_last_frame_followed_at_once_by_an_error_never_arrives() {
    for _ in 0..20 {
        let script = || [data("a"), mock::error("broken")];
        assert_eq!(
            play(Protocol::Http11, script).await.map(|r| r.end),
            Err(End::Closed)
        );
        let h2 = play(Protocol::Http2, script).await;
        assert_eq!(body_and_end(h2), (String::new(), internal_error()));
    }
}

#[tokio::test]
async fn a_last_frame_followed_by_a_clean_end_always_arrives() -> Outcome {
    for _ in 0..20 {
        for (protocol, end) in [
            (Protocol::Http11, End::LastChunk),
            (Protocol::Http2, End::EndStream),
        ] {
            let response = play(protocol, || [data("a"), pending(), data("the last")]).await?;
            assert_eq!((response.text().as_str(), response.end), ("athe last", end));
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_h2_error_in_the_source_chain_chooses_the_reset_code() -> Outcome {
    let reason = h2::Reason::ENHANCE_YOUR_CALM;
    let response = gated(Protocol::Http2, move || {
        Some(Err(::h2::Error::from(reason).into()))
    })
    .await?;
    assert_eq!(response.end, End::Reset(reason));
    Ok(())
}

#[tokio::test]
async fn a_panic_in_the_handler_leaves_nothing() -> Outcome {
    async fn handler() -> &'static str {
        panic!("asked to")
    }
    let server = serve(Router::new().route("/", get(handler))).await?;
    let h1 = Protocol::Http11
        .send(server.addr(), &Request::get("/"))
        .await;
    assert_eq!(h1.map(|r| r.end), Err(End::Closed));
    let h2 = Protocol::Http2
        .send(server.addr(), &Request::get("/"))
        .await;
    assert_eq!(h2.map(|r| r.end), Err(cancel()));
    Ok(())
}

#[tokio::test]
async fn a_panic_in_a_body_leaves_its_h2_neighbours_alone() -> Outcome {
    let streams = || MockBody::new([data("a"), sleep(Duration::from_millis(30)), data("b")]);
    let app = Router::new()
        .route("/well", get(move || async move { Body::new(streams()) }))
        .route(
            "/ill",
            get(|| async {
                Body::new(MockBody::new([
                    data("a"),
                    sleep(FLUSH),
                    mock::panic("asked to"),
                ]))
            }),
        );
    let server = serve(app).await?;
    let mut connection = h2::Connection::open(server.addr()).await?;
    let well = connection.send(&Request::get("/well")).await?;
    let ill = connection.send(&Request::get("/ill")).await?;
    assert_eq!(ill.reply().await?.finish().await.end, cancel());
    let well = well.reply().await?.finish().await;
    assert_eq!((well.text().as_str(), well.end), ("ab", End::EndStream));
    Ok(())
}

#[tokio::test]
async fn a_panic_in_a_tower_services_call_costs_only_its_own_h2_stream() -> Outcome {
    let service = tower::service_fn(|request: http::Request<hyper::body::Incoming>| {
        assert_ne!(
            request.uri().path(),
            "/ill",
            "asked to panic before there is a future"
        );
        let body = MockBody::new([data("a"), sleep(Duration::from_millis(30)), data("b")]);
        std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(body)))
    });
    let server = serve(service).await?;
    let mut connection = h2::Connection::open(server.addr()).await?;
    let well = connection.send(&Request::get("/well")).await?;
    let ill = connection.send(&Request::get("/ill")).await?;
    assert_eq!(ill.reply().await.map(|r| r.head().status), Err(cancel()));
    let well = well.reply().await?.finish().await;
    assert_eq!((well.text().as_str(), well.end), ("ab", End::EndStream));
    Ok(())
}

#[tokio::test]
async fn a_producer_that_panics_behind_a_channel_looks_like_a_clean_end() -> Outcome {
    for protocol in [Protocol::Http11, Protocol::Http2] {
        let handler = || async {
            let (sender, mut receiver) =
                tokio::sync::mpsc::channel::<Result<&str, std::io::Error>>(1);
            tokio::spawn(async move {
                sender.send(Ok("half")).await.unwrap();
                panic!("asked to");
            });
            Body::from_stream(futures_util::stream::poll_fn(move |cx| {
                receiver.poll_recv(cx)
            }))
        };
        let server = serve(Router::new().route("/", get(handler))).await?;
        let response = protocol.send(server.addr(), &Request::get("/")).await?;
        assert!(
            response.end.is_whole(),
            "silent truncation: {}",
            response.end
        );
        assert_eq!(response.text(), "half");
    }
    Ok(())
}
