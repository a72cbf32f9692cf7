//! At the deadline, and readers that are slow.

use std::convert::Infallible;

use axum::{Router, body::Body, http::header, routing::get};
use e2e::{End, Protocol, Request, h1};
use futures_util::{StreamExt, stream};
use tokio::time::sleep;

use super::{MS, Outcome, Rig, drain, hello};

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
        (report.stats.ended_early, report.stats.aborted),
        (3, 0),
        "{report}"
    );
    Ok(())
}

/// hyper drops trailers over HTTP/1, so a gRPC stream that ends without an error would read as a success.
#[tokio::test]
async fn a_grpc_stream_over_http_1_is_cut_and_not_ended_cleanly() -> Outcome {
    let message = || async {
        let first = stream::iter([Ok::<_, Infallible>("\0\0\0\0\x02ab")]);
        let body = Body::from_stream(first.chain(stream::pending()));
        ([(header::CONTENT_TYPE, "application/grpc")], body)
    };
    let app = Router::new().route("/", get(message));
    let rig = Rig::start(drain().deadline(400 * MS), app).await?;
    let mut client = h1::Connection::open(rig.addr).await?;
    client.send(&Request::get("/")).await?;
    let mut reply = client.reply().await?;
    reply.chunk().await;
    rig.drain.start();
    let response = reply.finish().await;
    assert!(response.end.is_cut(), "{}", response.end);
    assert!(rig.report().await?.is_clean());
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
        report.is_clean() && report.connections_aborted == 0,
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
        (report.stats.aborted, report.stats.ended_early),
        (1, 1),
        "{report}"
    );
    assert_eq!(report.connections_aborted, 1, "{report}");
    let answer = stalled.reply().await?.finish().await;
    assert!(answer.end.is_cut(), "{}", answer.end);
    Ok(())
}
