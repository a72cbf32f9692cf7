//! Requests that have no answer yet, and how the report counts each.

use std::{convert::Infallible, sync::mpsc, time::Duration};

use axum::{Router, body::Body, routing::any};
use e2e::{End, Protocol, Request, h1, h2, serve};
use futures_util::{StreamExt, future::join_all, stream};
use tokio::{net::TcpListener, time::sleep};
use tower_stream_drain::{DrainToken, Refusal};
use tower_stream_errors::{AfterTail, ErrorWriterLayer};

use super::{MS, Outcome, drain, hello};

async fn never() -> &'static str {
    std::future::pending().await
}

#[tokio::test]
async fn a_handler_without_an_answer_is_answered_for_in_the_format_of_the_client() -> Outcome {
    for writer in [ErrorWriterLayer::new(), ErrorWriterLayer::off()] {
        let told = format!("{writer:?}").contains("Config");
        let drain = drain().deadline(400 * MS).build();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let app = Router::new()
            .route("/", any(never))
            .layer(drain.farewell())
            .layer(writer)
            .layer(drain.layer());
        let serving = tower_stream_serve::serve(listener, app)
            .drain(&drain)
            .without_signals();
        let serving = tokio::spawn(serving.into_future());
        let page = Request::get("/").header("Accept", "text/html");
        let call = Request::post("/", "").header("Content-Type", "application/grpc");
        let requests = [
            (Protocol::Http10, Request::get("/")),
            (Protocol::Http11, Request::get("/")),
            (Protocol::Http2, Request::get("/")),
            (Protocol::Http2, Request::head("/")),
            (Protocol::Http11, page),
            (Protocol::Http2, call),
        ];
        let count = requests.len() as u64;
        let clients = requests.map(|(protocol, request)| {
            tokio::spawn(async move { protocol.send(addr, &request).await })
        });
        while drain.in_flight() < count {
            sleep(MS).await;
        }
        drain.start();
        let mut answers = Vec::new();
        for client in clients {
            answers.push(client.await??);
        }
        let grpc = answers.pop().ok_or("six")?;
        let grpc_status = grpc.header("grpc-status").or(grpc.trailer("grpc-status"));
        assert_eq!((grpc.status(), grpc_status), (200, Some("14")));
        for answer in &answers {
            assert_eq!(answer.status(), 503);
            let wait: u64 = answer.header("retry-after").unwrap_or_default().parse()?;
            assert!(
                (1..=5).contains(&wait) && answer.end.is_whole(),
                "{answer:?}"
            );
        }
        let page = answers.pop().ok_or("five")?;
        assert_eq!(page.text().contains("<h1>503"), told);
        assert!(answers[3].body().is_empty(), "HEAD");
        assert_eq!(answers[1].json()["status"], 503);
        let stats = serving.await??.stats;
        assert_eq!(
            (stats.served, stats.ended_early, stats.aborted),
            (0, count, 0)
        );
    }
    Ok(())
}

/// The error writer holds an aborted body back for a while; the drain waits for it, and each download is in one figure.
#[tokio::test]
async fn downloads_that_are_aborted_at_the_deadline_are_not_cut() -> Outcome {
    const DOWNLOADS: u64 = 40;
    let endless = || async {
        let first = stream::iter([Ok::<_, Infallible>("ab")]);
        Body::from_stream(first.chain(stream::pending()))
    };
    let builder = drain().deadline(400 * MS);
    // The drain must not end before the last download, however slow this machine is.
    let drain = builder.settle(Duration::from_secs(60)).build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let writer = ErrorWriterLayer::new().after_tail(AfterTail::Abort { settle: 100 * MS });
    let app = hello()
        .route("/download", any(endless))
        .layer(drain.farewell())
        .layer(writer)
        .layer(drain.layer());
    let serving = tower_stream_serve::serve(listener, app)
        .drain(&drain)
        .without_signals();
    let serving = tokio::spawn(serving.into_future());
    assert_eq!(
        Protocol::Http11
            .send(addr, &Request::get("/"))
            .await?
            .status(),
        200
    );
    let clients: Vec<_> = (0..DOWNLOADS)
        .map(|n| {
            let protocol = [Protocol::Http11, Protocol::Http2][n as usize % 2];
            tokio::spawn(async move { protocol.send(addr, &Request::get("/download")).await })
        })
        .collect();
    while drain.in_flight() < DOWNLOADS {
        sleep(MS).await;
    }
    drain.start();
    for client in join_all(clients).await {
        let answer = client??;
        assert!(answer.end.is_cut() && answer.text() == "ab", "{answer:?}");
    }
    let report = serving.await??;
    let stats = report.stats;
    assert_eq!(
        (stats.served, stats.ended_early, stats.aborted),
        (1, DOWNLOADS, 0),
        "{report}"
    );
    Ok(())
}

/// A handler that blocks its thread cannot be stopped. The server does not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_does_not_hold_the_server() -> Outcome {
    let drain = drain().deadline(400 * MS).build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    // In an idle runtime, one worker waits for sockets and timers. If the handler blocks that worker, tokio wakes no
    // other one to do this, and the test would never end. This task keeps another worker busy.
    let busy = tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = std::sync::Arc::new(parking_lot::Mutex::new(blocked));
    let block = move || async move {
        let _ = blocked.lock().recv();
        "late"
    };
    let app = Router::new().route("/", any(block)).layer(drain.layer());
    let serving = tokio::spawn(
        tower_stream_serve::serve(listener, app)
            .drain(&drain)
            .without_signals()
            .into_future(),
    );
    let mut client = h1::Connection::open(addr).await?;
    client.send(&Request::get("/")).await?;
    while drain.in_flight() == 0 {
        sleep(MS).await;
    }
    drain.start();
    let report = tokio::time::timeout(Duration::from_secs(20), serving).await;
    busy.abort();
    drop(release);
    let report = report???;
    assert_eq!(
        (report.stats.aborted, report.stats.served),
        (1, 0),
        "{report}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refused_stream_has_no_head() -> Outcome {
    let refusing = drain()
        .advertise(MS)
        .refuse_with(Refusal::RefusedStream)
        .build();
    let hold = DrainToken::new(&refusing);
    refusing.start_within(Duration::from_secs(50));
    while !refusing.state().is_refusing() {
        sleep(MS).await;
    }
    let server = drain().build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let app = hello().layer(refusing.layer());
    let serving = tokio::spawn(
        tower_stream_serve::serve(listener, app)
            .drain(&server)
            .without_signals()
            .into_future(),
    );
    for _ in 0..200 {
        let mut connection = h2::Connection::open(addr).await?;
        let mut streams = Vec::new();
        for _ in 0..10 {
            streams.push(connection.send(&Request::get("/")).await?);
        }
        for stream in streams {
            let reset = stream.reply().await.map(|reply| reply.head().status);
            assert_eq!(reset, Err(End::Reset(h2::Reason::REFUSED_STREAM)));
        }
    }
    drop(hold);
    server.start();
    serving.await??;
    Ok(())
}

/// The layer is outside of axum's router, which would itself remove the body of a response to HEAD.
#[tokio::test]
async fn head_is_refused_over_h2_without_data() -> Outcome {
    let drain = drain().advertise(MS).build();
    let hold = DrainToken::new(&drain);
    let server = serve(tower::Layer::layer(&drain.layer(), hello())).await?;
    drain.start();
    while !drain.state().is_refusing() {
        sleep(MS).await;
    }
    let answer = Protocol::Http2
        .send(server.addr(), &Request::head("/"))
        .await?;
    assert_eq!((answer.status(), &answer.end), (503, &End::EndStream));
    assert!(answer.header("content-length").is_some() && answer.body().is_empty());
    drop(hold);
    Ok(())
}

#[tokio::test]
async fn no_duration_of_a_server_panics() -> Outcome {
    let drain = drain().build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let serving = tower_stream_serve::serve(listener, hello().layer(drain.layer()))
        .drain(&drain)
        .without_signals()
        .max_age(Duration::MAX)
        .header_timeout(Duration::MAX)
        .idle_timeout(Duration::MAX)
        .ping_interval(Duration::MAX)
        .ping_timeout(Duration::MAX);
    let serving = tokio::spawn(serving.into_future());
    for _ in 0..20 {
        for protocol in Protocol::ALL {
            assert_eq!(
                protocol.send(addr, &Request::get("/")).await?.text(),
                "hello"
            );
        }
    }
    drain.start();
    serving.await??;
    Ok(())
}
