//! While it advertises, and after the close.

use std::time::Duration;

use bytes::Bytes;
use e2e::{End, Protocol, Request, h1, h2, serve};
use futures_util::future::join_all;
use tokio::{net::TcpListener, time::sleep};
use tower_stream_drain::{DrainToken, Refusal};

use super::{MS, Outcome, Rig, drain, hello};

#[tokio::test]
async fn while_it_advertises_every_h1_answer_closes_its_connection() -> Outcome {
    let rig = Rig::start(drain().advertise(Duration::from_secs(30)), hello()).await?;
    let mut busy = h1::Connection::open(rig.addr).await?;
    busy.send(&Request::get("/")).await?;
    let before = busy.reply().await?.finish().await;
    assert_eq!(before.header("connection"), None);
    let mut streaming = h1::Connection::open(rig.addr).await?;
    streaming.send(&Request::get("/slow")).await?;
    let reply = streaming.reply().await?;
    assert_eq!(reply.head().headers.get("connection"), None);
    rig.drain.start();

    // The drain has started between two requests of this connection.
    busy.send(&Request::get("/")).await?;
    let answer = busy.reply().await?.finish().await;
    assert_eq!(
        (answer.text().as_str(), answer.end.clone()),
        ("hello", End::Length)
    );
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(
        busy.closed().await,
        (End::Closed, Bytes::new()),
        "EOF after the body"
    );
    // A stream whose head was sent before the drain started continues to its end.
    assert_eq!(reply.finish().await.end, End::LastChunk);

    for (request, status) in [
        (Request::head("/"), 200),
        (Request::get("/empty"), 204),
        (Request::get("/nowhere"), 404),
        (Request::get("/slow"), 200),
    ] {
        let mut connection = h1::Connection::open(rig.addr).await?;
        connection.send(&request).await?;
        let answer = connection.reply().await?.finish().await;
        assert_eq!(
            (answer.status(), answer.header("connection")),
            (status, Some("close"))
        );
        assert_eq!(connection.closed().await, (End::Closed, Bytes::new()));
    }

    // An HTTP/1.0 client that asks for keep-alive gets a single `Connection: close`.
    let mut old = h1::Connection::open(rig.addr).await?;
    let keep = Request::get("/")
        .http10()
        .header("Connection", "keep-alive");
    old.send(&keep).await?;
    let answer = old.reply().await?.finish().await;
    let head = String::from_utf8(answer.raw.to_vec())?;
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert_eq!(
        answer.head.headers.all("connection").collect::<Vec<_>>(),
        ["close"]
    );
    assert_eq!(old.closed().await.0, End::Closed);

    // HTTP/2 has no `Connection` header, and the request is served.
    let answer = Protocol::Http2.send(rig.addr, &Request::get("/")).await?;
    assert_eq!((answer.status(), answer.header("connection")), (200, None));

    rig.drain.start_within(Duration::ZERO);
    let report = rig.report().await?;
    assert_eq!(
        (report.stats.served, report.stats.aborted),
        (9, 0),
        "{report}"
    );
    Ok(())
}

#[tokio::test]
async fn at_the_close_idle_connections_go_and_nobody_comes_in() -> Outcome {
    let rig = Rig::start(drain(), hello()).await?;
    let mut idle = h1::Connection::open(rig.addr).await?;
    idle.send(&Request::get("/")).await?;
    idle.reply().await?.finish().await;
    let mut silent = h1::Connection::open(rig.addr).await?;
    let mut busy = h1::Connection::open(rig.addr).await?;
    busy.send(&Request::get("/events")).await?;
    let mut reply = busy.reply().await?;
    reply.chunk().await;
    rig.drain.start();
    assert_eq!(idle.closed().await, (End::Closed, Bytes::new()));
    assert_eq!(silent.closed().await.0, End::Closed);
    let refused = Protocol::Http11.send(rig.addr, &Request::get("/")).await;
    assert_eq!(refused.map(|answer| answer.end), Err(End::TcpReset));
    assert!(reply.chunk().await.is_some(), "what is in flight goes on");
    rig.drain.start_within(Duration::ZERO);
    assert_eq!(reply.finish().await.end, End::LastChunk);
    let report = rig.report().await?;
    assert!(report.is_clean() && report.connections == 3, "{report:?}");
    Ok(())
}

/// Who connected before the listener closed is served, accepted or not.
#[tokio::test]
async fn a_connection_in_the_backlog_is_not_lost() -> Outcome {
    let drain = drain().build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let mut early = Vec::new();
    for _ in 0..20 {
        let mut connection = h1::Connection::open(addr).await?;
        connection.send(&Request::get("/")).await?;
        early.push(connection);
    }
    // The handover begins before the server accepts its first connection.
    drain.start();
    sleep(160 * MS).await;
    let app = hello().layer(drain.layer());
    let serving = tokio::spawn(
        tower_stream_serve::serve(listener, app)
            .drain(&drain)
            .without_signals()
            .into_future(),
    );
    for mut connection in early {
        let answer = connection.reply().await?.finish().await;
        assert_eq!(
            (answer.status(), answer.header("connection")),
            (200, Some("close"))
        );
    }
    assert_eq!(serving.await??.connections, 20);
    Ok(())
}

#[tokio::test]
async fn a_hundred_h2_streams_get_a_goaway_and_their_end() -> Outcome {
    let rig = Rig::start(drain(), hello()).await?;
    let mut connection = h2::Connection::open(rig.addr).await?;
    let mut replies = Vec::new();
    let mut last = 0;
    for _ in 0..100 {
        let stream = connection.send(&Request::get("/slow")).await?;
        last = stream.id();
        replies.push(stream.reply().await?);
    }
    rig.drain.start();
    assert_eq!(connection.go_away().await?, (last, h2::Reason::NO_ERROR));
    for response in join_all(replies.into_iter().map(h2::Reply::finish)).await {
        assert_eq!(
            (response.text().as_str(), response.end.clone()),
            ("abc", End::EndStream)
        );
    }
    assert_eq!(connection.closed().await, End::Closed);
    let report = rig.report().await?;
    assert_eq!(
        (
            report.stats.served,
            report.stats.refused,
            report.stats.aborted
        ),
        (100, 0, 0)
    );
    Ok(())
}

/// The layer on a server that does not close its connections: what arrives late is refused, properly.
#[tokio::test]
async fn a_late_request_is_told_when_to_come_back() -> Outcome {
    for refusal in [Refusal::Unavailable, Refusal::RefusedStream] {
        let drain = drain().advertise(MS).refuse_with(refusal).build();
        let hold = DrainToken::new(&drain);
        let server = serve(hello().layer(drain.layer())).await?;
        let mut old = h2::Connection::open(server.addr()).await?;
        drain.start();
        while !drain.state().is_refusing() {
            sleep(MS).await;
        }
        for protocol in [Protocol::Http10, Protocol::Http11] {
            let answer = protocol
                .send(server.addr(), &Request::post("/", "lost?"))
                .await?;
            assert_eq!(answer.status(), 503);
            assert_eq!(answer.header("connection"), Some("close"));
            assert_eq!(
                answer.header("content-type"),
                Some("application/problem+json")
            );
            let wait: u64 = answer.header("retry-after").unwrap_or_default().parse()?;
            assert!((1..=5).contains(&wait));
            assert_eq!(answer.json()["status"], 503);
            assert!(answer.end.is_whole(), "{protocol:?} {}", answer.end);
        }
        let stream = old.send(&Request::get("/")).await?;
        match refusal {
            Refusal::RefusedStream => {
                // After REFUSED_STREAM, a client may repeat the request whatever its method.
                let end = stream.reply().await.map(|_| ()).unwrap_err();
                assert_eq!(end, End::Reset(h2::Reason::REFUSED_STREAM));
            }
            _ => {
                let answer = stream.reply().await?.finish().await;
                assert_eq!((answer.status(), answer.header("connection")), (503, None));
                assert!(answer.end.is_whole());
            }
        }
        assert_eq!(drain.stats().refused, 3);
        drop(hold);
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_upload_that_is_refused_receives_its_answer() -> Outcome {
    let drain = drain().advertise(MS).build();
    let hold = DrainToken::new(&drain);
    let server = serve(hello().layer(drain.layer())).await?;
    drain.start();
    while !drain.state().is_refusing() {
        sleep(MS).await;
    }
    let mut upload = h1::Connection::open(server.addr()).await?;
    upload
        .send_raw(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nthe first of")
        .await?;
    let answer = upload.reply_to("POST").await?.finish().await;
    assert_eq!((answer.status(), answer.end.clone()), (503, End::Length));
    assert_eq!(answer.header("connection"), Some("close"));
    // A client that waits for `100 Continue` gets the 503 without it.
    let mut upload = h1::Connection::open(server.addr()).await?;
    upload
        .send_raw(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        )
        .await?;
    let answer = upload.reply_to("POST").await?.finish().await;
    assert!(answer.raw.starts_with(b"HTTP/1.1 503 "), "{:?}", answer.raw);
    drop(hold);
    Ok(())
}
