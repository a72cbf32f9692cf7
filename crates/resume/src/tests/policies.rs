use std::time::Duration;

use http::{Method, StatusCode};
use tokio::{task::yield_now, time::advance};
use tower_stream_core::FaultKind;

use super::support::{Client, Events, SSE, app, request, resume, send, status_of, with_cursor};
use crate::{Memory, StreamLog, WhoLeft};

/// Lets the tasks run that are ready.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

async fn state(app: &axum::Router, id: &str) -> String {
    let response = send(app, request(&format!("/streams/{id}/status"))).await;
    let body = axum::body::to_bytes(response.into_body(), 10_000).await;
    String::from_utf8(body.unwrap().to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn without_grace_the_producer_stops_when_its_last_reader_leaves() {
    let resume = resume(Memory::new());
    let layer = resume.layer().who_left(WhoLeft::Cancel);
    let (app, feed) = app(&resume, layer, SSE);
    let mut first = Client::open(&app, request("/")).await;
    feed.send("data: 1\n\n");
    first.until("data: 1").await;
    let (id, cursor) = (first.id(), first.cursor());
    let second = Client::open(&app, with_cursor("/", &cursor)).await;
    drop(first);
    settle().await;
    assert!(!feed.is_dropped(), "one reader is left");
    drop(second);
    settle().await;
    assert!(feed.is_dropped());
    assert!(state(&app, &id).await.contains("\"state\":\"cancelled\""));
    assert_eq!(resume.stats().producers, 0);
}

#[tokio::test(start_paused = true)]
async fn within_the_grace_a_reader_may_come_back() {
    let resume = resume(Memory::new());
    let layer = resume
        .layer()
        .who_left(WhoLeft::Grace(Duration::from_secs(30)));
    let (app, feed) = app(&resume, layer, SSE);
    let mut first = Client::open(&app, request("/")).await;
    feed.send("data: 1\n\n");
    first.until("data: 1").await;
    let (id, cursor) = (first.id(), first.cursor());
    drop(first);
    advance(Duration::from_secs(29)).await;
    settle().await;
    let second = Client::open(&app, with_cursor("/", &cursor)).await;
    advance(Duration::from_secs(60)).await;
    settle().await;
    assert!(!feed.is_dropped());
    drop(second);
    advance(Duration::from_secs(29)).await;
    settle().await;
    assert!(!feed.is_dropped());
    advance(Duration::from_secs(2)).await;
    settle().await;
    assert!(feed.is_dropped());
    // Whoever comes later gets the stored end, each time.
    for _ in 0..2 {
        let mut late = Client::open(&app, with_cursor("/", &cursor)).await;
        late.rest().await;
        assert_eq!(late.failed.unwrap().kind(), FaultKind::Cancelled);
    }
    assert!(state(&app, &id).await.contains("\"end\":2"));
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_waits_for_room_in_the_log_keeps_its_lease() {
    let log = Memory::builder().max_stream_bytes(64 * 1_024).build();
    let resume = resume(log.clone());
    let layer = resume
        .layer()
        .who_left(WhoLeft::Grace(Duration::from_secs(3_600)));
    let (app, feed) = app(&resume, layer, SSE);
    let mut first = Client::open(&app, request("/")).await;
    feed.send("data: 0\n\n");
    first.until("data: 0").await;
    let id = resume.shared.issuer.read(&first.id(), Some("alice"));
    drop(first);
    for _ in 0..90 {
        feed.send(format!("data: {}\n\n", "x".repeat(1_000)));
        settle().await;
    }
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let status = log.status(&id.unwrap()).await.unwrap();
        assert!(status.lease.is_some() && status.end.is_none(), "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_detached_producer_runs_to_the_end_and_trims() {
    let log = Memory::builder().max_stream_bytes(4_096).build();
    let resume = resume(log);
    let layer = resume
        .layer()
        .who_left(WhoLeft::Detach(Duration::from_secs(3_600)));
    let (app, feed) = app(&resume, layer, SSE);
    let mut first = Client::open(&app, request("/")).await;
    feed.send("data: 0\n\n");
    first.until("data: 0").await;
    let cursor = first.cursor();
    drop(first);
    for n in 1..=200 {
        feed.send(format!("data: {n}\n\n"));
        settle().await;
    }
    advance(Duration::from_secs(300)).await;
    feed.end();
    settle().await;
    let mut late = Client::open(&app, with_cursor("/", &cursor)).await;
    late.rest().await;
    let events = Events::of(&late.text);
    assert!(late.text.starts_with("event: gap\nid: "), "{}", late.text);
    let (gap, kept) = events.data.split_first().unwrap();
    let first: u64 = kept[0].parse().unwrap();
    // Event n has offset n + 1, and the client has the first one.
    assert_eq!(
        *gap,
        format!("{{\"first\":{},\"missed\":{}}}", first + 1, first - 1)
    );
    let expected: Vec<_> = (first..=200).map(|n| n.to_string()).collect();
    assert_eq!(kept, expected);
}

#[tokio::test(start_paused = true)]
async fn without_readers_a_producer_pauses_when_the_log_is_full() {
    let log = Memory::builder().max_stream_bytes(64 * 1_024).build();
    let resume = resume(log.clone());
    let layer = resume
        .layer()
        .who_left(WhoLeft::Grace(Duration::from_secs(3_600)));
    let (app, feed) = app(&resume, layer, SSE);
    let mut first = Client::open(&app, request("/")).await;
    feed.send("data: first\n\n");
    first.until("first").await;
    let cursor = first.cursor();
    drop(first);
    let (mut sent, text) = (0_u64, "x".repeat(1_000));
    for _ in 0..4_000 {
        feed.send(format!("data: {text}{sent}\n\n"));
        sent += 1;
    }
    for _ in 0..50 {
        advance(Duration::from_millis(300)).await;
        settle().await;
    }
    let id = cursor.split('.').next().unwrap();
    let status = state(&app, id).await;
    assert!(
        status.contains("\"first\":1,"),
        "nothing is trimmed: {status}"
    );
    assert!(log.bytes() < 80 * 1_024);
    feed.end();
    let mut back = Client::open(&app, with_cursor("/", &cursor)).await;
    back.rest().await;
    let data = Events::of(&back.text).data;
    let expected: Vec<_> = (0..sent).map(|n| format!("{text}{n}")).collect();
    assert!(data == expected, "{} of {sent}", data.len());
}

#[tokio::test(start_paused = true)]
async fn the_producer_is_at_most_1024_records_ahead_of_the_fastest_reader() {
    let resume = resume(Memory::new());
    let (app, _) = app(&resume, resume.layer(), SSE);
    let polled = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let endless = {
        let polled = polled.clone();
        move || {
            let polled = polled.clone();
            let events = futures_util::stream::repeat_with(move || {
                let n = polled.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok::<_, std::convert::Infallible>(format!("data: {n}\n\n"))
            });
            async {
                (
                    [("content-type", SSE)],
                    axum::body::Body::from_stream(events),
                )
            }
        }
    };
    let endless = axum::routing::get(endless).layer(resume.layer());
    let app = app.route("/endless", endless);
    let mut fast = Client::open(&app, request("/endless")).await;
    let slow = Client::open(&app, request(&format!("/streams/{}", fast.id()))).await;
    // The offset of a cursor is not signed.
    let ahead = request(&format!("/streams/{}?after=4000000000", fast.id()));
    let mut ahead = Client::open(&app, ahead).await;
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(1), ahead.until("data"));
    assert!(nothing.await.is_err());
    let read = || polled.load(std::sync::atomic::Ordering::Relaxed);
    for _ in 0..200 {
        settle().await;
    }
    assert_eq!(read(), 1_024);
    fast.until("data: 99\n").await;
    settle().await;
    let taken = Events::of(&fast.text).data.len() as u64;
    assert!((100..1_024).contains(&taken));
    // A reader takes 64 records at a time.
    assert_eq!(read(), 1_024 + taken / 64 * 64);
    // A reader that does not read holds nobody, and reads the log later.
    fast.until("data: 3000\n").await;
    let mut slow = slow;
    slow.until("data: 3000\n").await;
    let data = Events::of(&slow.text).data;
    let expected: Vec<_> = (0..data.len()).map(|n| n.to_string()).collect();
    assert!(data == expected && data.len() > 3_000);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_comes_late_takes_a_long_stream_to_its_end() {
    let resume = resume(Memory::new());
    let layer = resume
        .layer()
        .who_left(WhoLeft::Detach(Duration::from_secs(600)));
    let (app, feed) = app(&resume, layer, SSE);
    let mut first = Client::open(&app, request("/")).await;
    feed.send("data: 1\n\n");
    first.until("data: 1").await;
    let cursor = first.cursor();
    drop(first);
    // Far more than a producer may be ahead of a reader.
    let text = "x".repeat(64 * 1_024);
    for _ in 0..40 {
        feed.send(format!("data: {text}\n\n"));
        settle().await;
    }
    let mut late = Client::open(&app, with_cursor("/", &cursor)).await;
    late.until("data: x").await;
    feed.send("data: last\n\n");
    let last = tokio::time::timeout(Duration::from_secs(60), late.until("data: last"));
    last.await.expect("the producer goes on");
    assert_eq!(Events::of(&late.text).data.len(), 41);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_stream_ends_for_all() {
    let resume = resume(Memory::new());
    let (app, feed) = app(&resume, resume.layer(), SSE);
    let mut first = Client::open(&app, request("/")).await;
    feed.send("data: 1\n\n");
    first.until("data: 1").await;
    let cancel = |origin: Option<&'static str>| {
        let mut cancel = request(&format!("/streams/{}", first.id()));
        *cancel.method_mut() = Method::DELETE;
        let headers = cancel.headers_mut();
        headers.insert("host", "example.com".parse().unwrap());
        if let Some(origin) = origin {
            headers.insert("origin", origin.parse().unwrap());
        }
        cancel
    };
    for foreign in ["https://evil.com", "null", "https://example.com.evil.com"] {
        let found = status_of(&app, cancel(Some(foreign))).await;
        assert_eq!(found, StatusCode::FORBIDDEN, "{foreign}");
    }
    assert!(!feed.is_dropped());
    for origin in [Some("https://example.com"), None] {
        let found = status_of(&app, cancel(origin)).await;
        assert_eq!(found, StatusCode::NO_CONTENT);
    }
    first.rest().await;
    assert_eq!(first.failed.unwrap().kind(), FaultKind::Cancelled);
    settle().await;
    assert!(feed.is_dropped());
}
