//! The drain on the wire: what clients of HTTP/1.0, 1.1 and 2 receive while a server goes away.

use std::{convert::Infallible, error::Error, io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request as AxumRequest,
    http::{StatusCode, header},
    response::{IntoResponse, Response as AxumResponse},
    routing::get,
};
use bytes::Bytes;
use e2e::{End, Protocol, Request, h1, h2, serve};
use futures_util::{StreamExt, future::join_all, stream};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
    time::sleep,
};
use tower_stream_drain::{Builder, Drain, DrainToken, Draining, Refusal, Report, State};

type Outcome = Result<(), Box<dyn Error>>;

const MS: Duration = Duration::from_millis(1);

/// Advertises for 200 ms, is over after a minute: what waits that long shows in the test's time.
fn drain() -> Builder {
    Drain::builder()
        .advertise(200 * MS)
        .deadline(Duration::from_secs(60))
}

struct Rig {
    drain: Drain,
    addr: SocketAddr,
    serving: JoinHandle<io::Result<Report>>,
}

impl Rig {
    async fn start(builder: Builder, routes: Router) -> io::Result<Self> {
        let drain = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let app = routes.layer(drain.farewell()).layer(drain.layer());
        let serving = drain.serve(listener, app).without_signals();
        let serving = tokio::spawn(serving.into_future());
        Ok(Self {
            drain,
            addr,
            serving,
        })
    }

    async fn report(self) -> Result<Report, Box<dyn Error>> {
        Ok(self.serving.await??)
    }
}

/// An event every 20 ms, without an end.
async fn events() -> AxumResponse {
    let ticks = stream::unfold(0_u64, |n| async move {
        sleep(20 * MS).await;
        Some((
            Ok::<_, Infallible>(format!("id: {n}\ndata: {n}\n\n")),
            n + 1,
        ))
    });
    (
        [(header::CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(ticks),
    )
        .into_response()
}

/// Three chunks, 100 ms apart.
async fn slow() -> Body {
    let chunks = stream::iter(["a", "b", "c"]).then(|chunk| async move {
        sleep(100 * MS).await;
        Ok::<_, Infallible>(chunk)
    });
    Body::from_stream(chunks)
}

fn hello() -> Router {
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/empty", get(|| async { StatusCode::NO_CONTENT }))
        .route("/slow", get(slow))
        .route("/events", get(events))
}

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

    // between two requests
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
    // a stream whose head was out already goes on to its end
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

    // HTTP/1.0 that asks for keep-alive gets one answer to that: no
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

    // HTTP/2 has no such header, and is served
    let answer = Protocol::Http2.send(rig.addr, &Request::get("/")).await?;
    assert_eq!((answer.status(), answer.header("connection")), (200, None));

    rig.drain.start_within(Duration::ZERO);
    let report = rig.report().await?;
    assert_eq!((report.stats.served, report.stats.cut), (9, 0), "{report}");
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
    // the handover begins before the first accept
    drain.start();
    sleep(160 * MS).await;
    let app = hello().layer(drain.layer());
    let serving = tokio::spawn(drain.serve(listener, app).without_signals().into_future());
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
        (report.stats.served, report.stats.refused, report.stats.cut),
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
                // only then may a client repeat it, whatever the method
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
    // one that waits to be asked is not asked
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

#[tokio::test]
async fn at_the_deadline_every_protocol_reads_one_farewell() -> Outcome {
    let rig = Rig::start(drain().deadline(400 * MS), hello()).await?;
    let clients = Protocol::ALL.map(|protocol| {
        let addr = rig.addr;
        tokio::spawn(async move { protocol.send(addr, &Request::get("/events")).await })
    });
    while rig.drain.in_flight() < 3 {
        sleep(MS).await;
    }
    rig.drain.start();
    for (protocol, client) in Protocol::ALL.into_iter().zip(clients) {
        let response = client.await??;
        let whole = match protocol {
            Protocol::Http10 => End::Closed,
            Protocol::Http11 => End::LastChunk,
            Protocol::Http2 => End::EndStream,
        };
        assert_eq!(response.end, whole, "{protocol:?}");
        let text = response.text();
        let (before, farewell) = text.split_once("event: drain\n").ok_or("no farewell")?;
        assert!(before.ends_with("\n\n"), "{protocol:?} {text}");
        assert!(
            farewell.starts_with("data: {") && farewell.ends_with("\n\n"),
            "{farewell}"
        );
        assert!(!farewell.contains("id:"), "{farewell}");
    }
    let report = rig.report().await?;
    assert_eq!(
        (report.stats.farewelled, report.stats.cut),
        (3, 0),
        "{report}"
    );
    Ok(())
}

/// The body is dropped long before its bytes are delivered: the connection is waited for, not the count.
#[tokio::test]
async fn a_slow_reader_gets_all_of_a_large_body() -> Outcome {
    const SIZE: usize = 16 << 20;
    let app = Router::new().route("/", get(|| async { vec![b'x'; SIZE] }));
    let rig = Rig::start(drain(), app).await?;
    let mut reader = h1::Connection::open_with_receive_buffer(rig.addr, 4096).await?;
    reader.send(&Request::get("/")).await?;
    reader.read_some(1).await?;
    rig.drain.start();
    while !rig.drain.state().is_refusing() {
        reader.read_some(1024).await?;
        sleep(5 * MS).await;
    }
    let answer = reader.reply().await?.finish().await;
    assert_eq!(
        (answer.body().len(), answer.end.clone()),
        (SIZE, End::Length)
    );
    let report = rig.report().await?;
    assert!(
        report.is_clean() && report.connections_cut == 0,
        "{report:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_stalled_reader_is_cut_at_the_deadline() -> Outcome {
    let endless =
        || async { Body::from_stream(stream::repeat_with(|| Ok::<_, Infallible>(vec![0; 65536]))) };
    let rig = Rig::start(
        drain().deadline(400 * MS),
        hello().route("/flood", get(endless)),
    )
    .await?;
    let mut stalled = h1::Connection::open_with_receive_buffer(rig.addr, 4096).await?;
    stalled.send(&Request::get("/flood")).await?;
    stalled.read_some(1).await?;
    let mut reading = h1::Connection::open(rig.addr).await?;
    reading.send(&Request::get("/events")).await?;
    let reply = reading.reply().await?;
    rig.drain.start();
    let response = reply.finish().await;
    assert!(response.text().contains("event: drain\n"));
    let report = rig.report().await?;
    assert_eq!(
        (report.stats.cut, report.stats.farewelled),
        (1, 1),
        "{report}"
    );
    assert_eq!(report.connections_cut, 1, "{report}");
    let answer = stalled.reply().await?.finish().await;
    assert!(answer.end.is_cut(), "{}", answer.end);
    Ok(())
}

/// Answers what it reads until the drain is started, says goodbye, and waits for the other side to close.
async fn talk(request: AxumRequest, token: DrainToken) {
    let Ok(upgraded) = hyper::upgrade::on(request).await else {
        return;
    };
    let mut io = TokioIo::new(upgraded);
    let draining = token.draining();
    let mut buffer = [0; 64];
    loop {
        tokio::select! {
            read = io.read(&mut buffer) => match read {
                Ok(n @ 1..) => { let _ = io.write_all(&buffer[..n]).await; }
                _ => break,
            },
            () = draining.started() => {
                let _ = io.write_all(b"bye").await;
                while !matches!(io.read(&mut buffer).await, Ok(0) | Err(_)) {}
                break;
            }
        }
    }
    drop(token);
}

async fn upgrade(token: DrainToken, _: Draining, request: AxumRequest) -> AxumResponse {
    tokio::spawn(talk(request, token));
    let headers = [
        (header::CONNECTION, "upgrade"),
        (header::UPGRADE, "websocket"),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

#[tokio::test]
async fn a_websocket_holds_the_drain_by_its_token() -> Outcome {
    let rig = Rig::start(drain(), hello().route("/ws", get(upgrade))).await?;
    let mut socket = h1::Connection::open(rig.addr).await?;
    socket
        .send(
            &Request::get("/ws")
                .header("Connection", "upgrade")
                .header("Upgrade", "websocket"),
        )
        .await?;
    let answer = socket.reply().await?.finish().await;
    assert_eq!(
        (answer.status(), answer.header("connection")),
        (101, Some("upgrade"))
    );
    let mut taken = socket.received().len();
    socket.send_raw(b"ping").await?;
    socket.read_some(64).await?;
    assert_eq!(&socket.received()[taken..], b"ping");
    taken = socket.received().len();
    assert_eq!(
        rig.drain.in_flight(),
        1,
        "the request is over, the token is held"
    );
    rig.drain.start();
    socket.read_some(64).await?;
    assert_eq!(&socket.received()[taken..], b"bye");
    while !rig.drain.state().is_refusing() {
        sleep(MS).await;
    }
    sleep(50 * MS).await;
    assert_ne!(rig.drain.state(), State::Dead);
    drop(socket);
    let report = rig.report().await?;
    assert!(report.is_clean(), "{report}");
    Ok(())
}

#[tokio::test]
async fn an_h2_connect_holds_the_drain_by_its_token() -> Outcome {
    async fn tunnel(token: DrainToken, request: AxumRequest) -> StatusCode {
        assert_eq!(request.method(), "CONNECT");
        tokio::spawn(talk(request, token));
        StatusCode::OK
    }
    let rig = Rig::start(drain(), Router::new().fallback(tunnel)).await?;
    let stream = tokio::net::TcpStream::connect(rig.addr).await?;
    let (client, connection) = ::h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let request = axum::http::Request::connect("example.org:443").body(())?;
    let (response, mut upload) = client.ready().await?.send_request(request, false)?;
    let response = response.await?;
    assert_eq!(response.status(), 200);
    let mut download = response.into_body();
    upload.send_data(Bytes::from("ping"), false)?;
    assert_eq!(download.data().await.ok_or("ended")??, "ping");
    assert_eq!(rig.drain.in_flight(), 1);
    rig.drain.start();
    assert_eq!(download.data().await.ok_or("ended")??, "bye");
    while !rig.drain.state().is_refusing() {
        sleep(MS).await;
    }
    sleep(50 * MS).await;
    assert_ne!(rig.drain.state(), State::Dead);
    upload.send_data(Bytes::new(), true)?;
    let report = rig.report().await?;
    assert!(report.is_clean(), "{report}");
    connection.abort();
    Ok(())
}

#[tokio::test]
async fn a_connection_that_served_enough_or_is_old_is_sent_away_and_loses_nothing() -> Outcome {
    let drain = drain().build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let serving = drain
        .serve(listener, hello().layer(drain.layer()))
        .without_signals()
        .max_requests(10);
    let serving = tokio::spawn(serving.into_future());
    let mut counts = Vec::new();
    for _ in 0..20 {
        let mut connection = h1::Connection::open(addr).await?;
        let mut count = 0;
        loop {
            connection.send(&Request::get("/")).await?;
            let answer = connection.reply().await?.finish().await;
            assert_eq!((answer.status(), answer.end.clone()), (200, End::Length));
            count += 1;
            if answer.header("connection") == Some("close") {
                break;
            }
        }
        assert_eq!(connection.closed().await.0, End::Closed);
        counts.push(count);
    }
    assert!(
        counts.iter().all(|count| (9..=11).contains(count)),
        "{counts:?}"
    );
    assert!(
        counts.iter().any(|count| *count != counts[0]),
        "no jitter: {counts:?}"
    );
    drain.start();
    serving.await??;

    let drain = self::drain().build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let serving = drain
        .serve(listener, hello().layer(drain.layer()))
        .without_signals()
        .max_age(100 * MS);
    let serving = tokio::spawn(serving.into_future());
    let mut connection = h2::Connection::open(addr).await?;
    let stream = connection.send(&Request::get("/slow")).await?;
    let id = stream.id();
    assert_eq!(connection.go_away().await?, (id, h2::Reason::NO_ERROR));
    assert_eq!(stream.reply().await?.finish().await.text(), "abc");
    let mut connection = h1::Connection::open(addr).await?;
    sleep(150 * MS).await;
    connection.send(&Request::get("/")).await?;
    let answer = connection.reply().await?.finish().await;
    assert_eq!(answer.header("connection"), Some("close"), "told, not cut");
    drain.start();
    assert!(serving.await??.is_clean());
    Ok(())
}

/// Two servers of one drain: it is dead when both are done.
#[tokio::test]
async fn two_servers_share_a_drain() -> Outcome {
    let drain = drain().build();
    let mut serving = Vec::new();
    let mut addrs = Vec::new();
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addrs.push(listener.local_addr()?);
        let server = drain
            .serve(listener, hello().layer(drain.layer()))
            .without_signals();
        serving.push(tokio::spawn(server.into_future()));
    }
    let slow = tokio::spawn(async move {
        Protocol::Http11
            .send(addrs[1], &Request::get("/slow"))
            .await
    });
    while drain.in_flight() == 0 {
        sleep(MS).await;
    }
    drain.start();
    assert_eq!(slow.await??.text(), "abc");
    for report in join_all(serving).await {
        assert_eq!(report??.stats.state, State::Dead);
    }
    Ok(())
}
