//! Closing connections.

use std::sync::Arc;

use axum::{Router, body::Body, routing::get};
use e2e::{End, Request, TestServer, h1, h2, serve};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Version};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tower_stream_core::mock::{MockBody, data, sleep};

use super::{FLUSH, Outcome, with_head};

fn close(response: &mut http::Response<Body>) {
    response
        .headers_mut()
        .insert("connection", HeaderValue::from_static("close"));
}

#[tokio::test]
async fn a_close_header_ends_an_h1_connection_after_the_body_and_drops_what_was_pipelined()
-> Outcome {
    let (server, _) = with_head(MockBody::new([data("a"), sleep(FLUSH), data("b")]), close).await;
    let mut connection = h1::Connection::open(server.addr()).await?;
    connection.send(&Request::get("/")).await?;
    connection.send(&Request::get("/pipelined")).await?;
    let response = connection.reply().await?.finish().await;
    assert_eq!(
        (response.text().as_str(), response.end),
        ("ab", End::LastChunk)
    );
    let (end, rest) = connection.closed().await;
    assert!(matches!(end, End::Closed | End::TcpReset), "{end}");
    assert!(rest.is_empty(), "{}", rest.escape_ascii());
    Ok(())
}

#[tokio::test]
async fn a_close_header_is_stripped_on_h2_and_no_goaway_follows() -> Outcome {
    let (server, _) = with_head(MockBody::new([data("a")]), close).await;
    let mut connection = h2::Connection::open(server.addr()).await?;
    let response = connection
        .send(&Request::get("/"))
        .await?
        .reply()
        .await?
        .finish()
        .await;
    assert_eq!(
        (response.header("connection"), &response.end),
        (None, &End::EndStream)
    );
    assert_eq!(
        connection
            .send(&Request::get("/again"))
            .await?
            .reply()
            .await?
            .head()
            .status,
        404
    );
    assert!(
        !connection
            .frames()
            .iter()
            .any(|f| matches!(f.kind, h2::FrameKind::GoAway { .. }))
    );
    Ok(())
}

#[tokio::test]
async fn http10_keep_alive_closes_cleanly_only_with_the_response_version_set() -> Outcome {
    let request = Request::get("/")
        .http10()
        .header("Connection", "keep-alive");
    let body = || MockBody::new([data("a")]).with_true_size();

    let (server, _) = with_head(body(), close).await;
    let mut connection = h1::Connection::open(server.addr()).await?;
    connection.send(&request).await?;
    let response = connection.reply().await?.finish().await;
    let values: Vec<_> = response
        .head
        .headers
        .all("connection")
        .map(str::to_owned)
        .collect();
    assert_eq!(values, ["close, keep-alive"], "hyper 1.12 sends both");

    let set = |response: &mut http::Response<Body>| {
        close(response);
        *response.version_mut() = Version::HTTP_10;
    };
    let (server, _) = with_head(body(), set).await;
    let mut connection = h1::Connection::open(server.addr()).await?;
    connection.send(&request).await?;
    let response = connection.reply().await?.finish().await;
    let values: Vec<_> = response
        .head
        .headers
        .all("connection")
        .map(str::to_owned)
        .collect();
    assert_eq!(
        (values, response.end),
        (vec!["close".to_owned()], End::Length)
    );
    assert_eq!(connection.closed().await.0, End::Closed);
    Ok(())
}

/// A server whose body is `a`, and `b` once the sender says so.
async fn held() -> std::io::Result<(TestServer, oneshot::Sender<&'static str>)> {
    let (sender, receiver) = oneshot::channel();
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let handler = async move || {
        let second = receiver.lock().take().expect("one request");
        Body::from_stream(stream::once(async { Ok("a") }).chain(stream::once(second)))
    };
    Ok((serve(Router::new().route("/", get(handler))).await?, sender))
}

#[tokio::test]
async fn a_graceful_shutdown_closes_h1_after_its_stream_and_when_idle() -> Outcome {
    let (server, rest) = held().await?;
    let mut idle = h1::Connection::open(server.addr()).await?;
    idle.send(&Request::get("/nowhere")).await?;
    assert_eq!(idle.reply().await?.finish().await.status(), 404);
    let mut busy = h1::Connection::open(server.addr()).await?;
    busy.send(&Request::get("/")).await?;
    let mut reply = busy.reply().await?;
    assert!(reply.chunk().await.is_some());
    server.begin_shutdown();
    assert_eq!(idle.closed().await.0, End::Closed);
    rest.send("b").unwrap();
    let response = reply.finish().await;
    assert_eq!(
        (response.text().as_str(), response.end),
        ("ab", End::LastChunk)
    );
    assert_eq!(busy.closed().await.0, End::Closed);
    server.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_graceful_shutdown_sends_two_goaways_and_lets_streams_end() -> Outcome {
    let (server, rest) = held().await?;
    let mut connection = h2::Connection::open(server.addr()).await?;
    let stream = connection.send(&Request::get("/")).await?;
    let id = stream.id();
    let mut reply = stream.reply().await?;
    assert!(reply.chunk().await.is_some());
    server.begin_shutdown();
    assert_eq!(connection.go_away().await?, (id, h2::Reason::NO_ERROR));
    rest.send("b").unwrap();
    let response = reply.finish().await;
    assert_eq!(
        (response.text().as_str(), response.end),
        ("ab", End::EndStream)
    );
    let frames = connection.frames();
    let last_streams = frames.iter().filter_map(|f| match f.kind {
        h2::FrameKind::GoAway { last_stream, .. } => Some(last_stream),
        _ => None,
    });
    assert_eq!(last_streams.collect::<Vec<_>>(), [h2::EVERY_STREAM, id]);
    server.shutdown().await;
    Ok(())
}
