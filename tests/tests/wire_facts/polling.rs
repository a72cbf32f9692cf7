//! When hyper stops polling.

use std::time::Duration;

use axum::body::Body;
use e2e::{End, Protocol, Request, h1, h2};
use tower_stream_core::mock::{MockBody, Probe, data, sleep};

use super::{FLUSH, Outcome, once, play, with_head};

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
