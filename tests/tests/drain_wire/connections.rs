//! Connections that are sent away, and servers that share a drain.

use e2e::{End, Protocol, Request, h1, h2};
use futures_util::future::join_all;
use tokio::{net::TcpListener, time::sleep};
use tower_stream_drain::State;

use super::{MS, Outcome, drain, hello};

#[tokio::test]
async fn a_connection_that_served_enough_or_is_old_is_sent_away_and_loses_nothing() -> Outcome {
    let drain = drain().build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let serving = tower_stream_serve::serve(listener, hello().layer(drain.layer()))
        .drain(&drain)
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
    let serving = tower_stream_serve::serve(listener, hello().layer(drain.layer()))
        .drain(&drain)
        .without_signals()
        .max_age(200 * MS);
    let serving = tokio::spawn(serving.into_future());
    let mut connection = h2::Connection::open(addr).await?;
    let stream = connection.send(&Request::get("/slow")).await?;
    let id = stream.id();
    assert_eq!(connection.go_away().await?, (id, h2::Reason::NO_ERROR));
    assert_eq!(stream.reply().await?.finish().await.text(), "abc");
    let mut connection = h1::Connection::open(addr).await?;
    sleep(300 * MS).await;
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
        let server = tower_stream_serve::serve(listener, hello().layer(drain.layer()))
            .drain(&drain)
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
