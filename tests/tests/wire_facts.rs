//! What hyper, h2 and axum do on the wire, and the layers rest on. No layer of ours is here.
//!
//! A test that turns red after an update of those crates means that a design must be read again.

use std::{error::Error, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::IntoResponse, routing::get};
use bytes::Bytes;
use e2e::{End, Protocol, Request, Response, TestServer, h1, h2, serve};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Version};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tower_stream_body::mock::{self, MockBody, Probe, Step, data, pending, sleep, trailer};

type BoxError = Box<dyn Error + Send + Sync>;
type Outcome = Result<(), Box<dyn Error>>;

const FLUSH: Duration = Duration::from_millis(5);

/// Answers the first request with this body, any other with 404.
async fn once(body: MockBody) -> (TestServer, Probe) {
    with_head(body, |_| {}).await
}

async fn with_head(
    body: MockBody,
    head: impl Fn(&mut http::Response<Body>) + Clone + Send + Sync + 'static,
) -> (TestServer, Probe) {
    let probe = body.probe();
    let body = Arc::new(Mutex::new(Some(body)));
    let handler = async move || match body.lock().take() {
        Some(body) => {
            let mut response = Body::new(body).into_response();
            head(&mut response);
            response
        }
        None => http::StatusCode::NOT_FOUND.into_response(),
    };
    let server = serve(Router::new().fallback(handler))
        .await
        .expect("a free port");
    (server, probe)
}

/// What one GET of a fresh server with this script gives.
async fn play<const N: usize>(
    protocol: Protocol,
    script: impl Fn() -> [Step; N],
) -> Result<Response, End> {
    let (server, _) = once(MockBody::new(script())).await;
    protocol.send(server.addr(), &Request::get("/")).await
}

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

// Errors and panics after the head

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

// When hyper stops polling

/// Waits until the server has dropped the body.
async fn dropped(probe: &Probe) {
    while !probe.is_dropped() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn h1_never_asks_for_none_after_is_end_stream_or_the_exact_length() -> Outcome {
    for body in [
        MockBody::new([data("a"), data("b")]).tells_end(),
        MockBody::new([data("a"), data("b")]).with_true_size(),
    ] {
        let (server, probe) = once(body).await;
        let response = Protocol::Http11
            .send(server.addr(), &Request::get("/"))
            .await?;
        assert!(response.end.is_whole());
        dropped(&probe).await;
        assert_eq!(probe.polls(), 2, "two frames, and no question for a third");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_not_due_is_dropped_unpolled_and_the_connection_lives_on() -> Outcome {
    for (request, status) in [
        (Request::head("/"), 200),
        (Request::get("/"), 204),
        (Request::get("/"), 304),
    ] {
        let set = move |r: &mut http::Response<Body>| {
            *r.status_mut() = http::StatusCode::from_u16(status).unwrap();
        };
        let (server, probe) = with_head(MockBody::new([data("a")]), set).await;
        let mut connection = h1::Connection::open(server.addr()).await?;
        connection.send(&request).await?;
        let response = connection.reply().await?.finish().await;
        assert_eq!((response.status(), response.end), (status, End::NoBody));
        dropped(&probe).await;
        assert_eq!(probe.polls(), 0, "{status}");
        connection.send(&Request::get("/again")).await?;
        assert_eq!(
            connection.reply().await?.head().status,
            404,
            "the connection is still usable"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_body_behind_a_full_write_buffer_is_not_polled() -> Outcome {
    const PIECE: usize = 1 << 20;
    let script = std::iter::repeat_with(|| data(vec![0; PIECE])).take(64);
    let (server, probe) = once(MockBody::new(script)).await;
    let mut connection = h1::Connection::open_with_receive_buffer(server.addr(), 4096).await?;
    connection.send(&Request::get("/")).await?;
    let mut polls = probe.polls();
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        match probe.polls() {
            same if same == polls && polls > 0 => break,
            more => polls = more,
        }
    }
    assert!(polls < 64, "{polls} MiB were asked for while nobody read");
    assert!(!probe.is_dropped());
    Ok(())
}

#[tokio::test]
async fn h1_drops_empty_frames_and_h2_sends_them() -> Outcome {
    let script = || [data("a"), sleep(FLUSH), data(""), sleep(FLUSH), data("b")];
    let response = play(Protocol::Http11, script).await?;
    assert_eq!(
        response.end,
        End::LastChunk,
        "an empty chunk would have been the last"
    );
    assert_eq!(response.text(), "ab");

    let (server, _) = once(MockBody::new(script())).await;
    let mut connection = h2::Connection::open(server.addr()).await?;
    assert_eq!(
        connection
            .send(&Request::get("/"))
            .await?
            .reply()
            .await?
            .finish()
            .await
            .text(),
        "ab"
    );
    let frames = connection.frames();
    let lengths = frames
        .iter()
        .filter(|f| f.kind == h2::FrameKind::Data && !f.ends_stream())
        .map(|f| f.length);
    assert_eq!(lengths.collect::<Vec<_>>(), [1, 0, 1]);
    Ok(())
}

#[tokio::test]
async fn head_and_frames_that_are_ready_share_one_write() -> Outcome {
    let (server, _) = once(MockBody::new([data("a"), data("b"), data("c")])).await;
    let mut connection = h1::Connection::open(server.addr()).await?;
    connection.send(&Request::get("/")).await?;
    connection.read_some(4096).await?;
    assert!(
        connection.received().ends_with(b"1\r\nc\r\n0\r\n\r\n"),
        "{}",
        connection.received().escape_ascii()
    );
    Ok(())
}

// Lengths

#[tokio::test]
async fn an_exact_size_hint_becomes_content_length() -> Outcome {
    for protocol in Protocol::ALL {
        let (server, _) = once(MockBody::new([data("abc")]).with_true_size()).await;
        let response = protocol.send(server.addr(), &Request::get("/")).await?;
        assert_eq!(response.header("content-length"), Some("3"), "{protocol:?}");
        let response = play(protocol, || [data("abc")]).await?;
        assert_eq!(response.header("content-length"), None, "{protocol:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_shorter_than_declared_is_seen_by_every_client() -> Outcome {
    let declare = |r: &mut http::Response<Body>| {
        r.headers_mut()
            .insert("content-length", HeaderValue::from_static("5"));
    };
    for protocol in Protocol::ALL {
        let (server, _) = with_head(MockBody::new([data("abc"), sleep(FLUSH)]), declare).await;
        let response = protocol.send(server.addr(), &Request::get("/")).await?;
        assert!(response.end.is_cut(), "{protocol:?}: {}", response.end);
    }
    Ok(())
}

#[tokio::test]
async fn a_body_longer_than_declared_loses_what_is_over() -> Outcome {
    let declare = |r: &mut http::Response<Body>| {
        r.headers_mut()
            .insert("content-length", HeaderValue::from_static("3"));
    };
    let (server, _) = with_head(MockBody::new([data("abc"), data("def")]), declare).await;
    let response = Protocol::Http11
        .send(server.addr(), &Request::get("/"))
        .await?;
    assert_eq!(
        (response.text().as_str(), response.end),
        ("abc", End::Length)
    );
    Ok(())
}

// Trailers

async fn trailers(te: bool, announce: bool, exact: bool) -> Result<Response, End> {
    let mut body = MockBody::new([data("a"), trailer("x-sum", "9")]);
    if exact {
        body = body.with_true_size();
    }
    let (server, _) = with_head(body, move |r| {
        if announce {
            r.headers_mut()
                .insert("trailer", HeaderValue::from_static("x-sum"));
        }
    })
    .await;
    let request = Request::get("/");
    let request = if te {
        request.header("TE", "trailers")
    } else {
        request
    };
    Protocol::Http11.send(server.addr(), &request).await
}

#[tokio::test]
async fn h1_sends_trailers_only_if_asked_announced_and_chunked() -> Outcome {
    for te in [false, true] {
        for announce in [false, true] {
            for exact in [false, true] {
                let response = trailers(te, announce, exact).await?;
                let expected = (te && announce && !exact).then_some("9");
                assert_eq!(
                    response.trailer("x-sum"),
                    expected,
                    "TE {te}, Trailer {announce}, exact {exact}"
                );
                assert_eq!(
                    (response.text().as_str(), response.end.is_whole()),
                    ("a", true)
                );
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn h2_sends_trailers_without_being_asked() -> Outcome {
    let response = play(Protocol::Http2, || [data("a"), trailer("x-sum", "9")]).await?;
    assert_eq!(
        (response.trailer("x-sum"), response.end.is_whole()),
        (Some("9"), true)
    );
    Ok(())
}

// Closing connections

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

// A client that leaves

#[tokio::test]
async fn a_body_is_dropped_soon_after_its_reader_left() -> Outcome {
    let endless = || {
        MockBody::new(
            std::iter::repeat_with(|| [data("a"), sleep(FLUSH)])
                .take(2000)
                .flatten(),
        )
    };
    let (server, probe) = once(endless()).await;
    let mut connection = h1::Connection::open(server.addr()).await?;
    connection.send(&Request::get("/")).await?;
    assert!(connection.reply().await?.chunk().await.is_some());
    drop(connection);
    dropped(&probe).await;

    let (server, probe) = once(endless()).await;
    let mut connection = h2::Connection::open(server.addr()).await?;
    let mut reply = connection.send(&Request::get("/")).await?.reply().await?;
    assert!(reply.chunk().await.is_some());
    reply.reset(h2::Reason::CANCEL);
    dropped(&probe).await;
    Ok(())
}
