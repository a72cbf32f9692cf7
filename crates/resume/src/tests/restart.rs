//! Streams that go on elsewhere after their producer was lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::sleep;
use tower_stream_core::{Cause, Dialect, FaultKind};

use super::{
    drain::{Deadline, outside},
    lost::Faulty,
    support::{Client, Events, Feed, SSE, app, builder, request, send, status_of, with_cursor},
};
use crate::{
    Durability, Entry, Epoch, LostStream, Memory, NewStream, Overflow, Restart, Resume, StreamId,
    StreamLog, head::Head,
};

const SECOND: Duration = Duration::from_secs(1);

/// A server that restarts streams, with the bodies of these restarts, and what its function was given.
struct Replica {
    resume: Resume,
    app: Router,
    /// The bodies of its handler, and those of its restarts.
    feed: Feed,
    restarts: Feed,
    lost: Arc<Mutex<Vec<LostStream>>>,
}

impl Replica {
    fn new(log: &Memory) -> Self {
        Self::with(log, &Arc::default(), Durability::Live)
    }

    fn with(log: &Memory, down: &Arc<AtomicBool>, durability: Durability) -> Self {
        let (restarts, lost) = (Feed::default(), Arc::<Mutex<Vec<_>>>::default());
        let resume = {
            let (restarts, lost) = (restarts.clone(), Arc::clone(&lost));
            let builder = builder(Faulty::new(log.clone(), down));
            builder.restart(move |stream: LostStream| {
                let (restarts, lost) = (restarts.clone(), Arc::clone(&lost));
                async move {
                    lost.lock().push(stream.clone());
                    (stream.seed() != "no").then(|| restarts.response_body())
                }
            })
        };
        let resume = resume.build();
        let (app, feed) = app(&resume, resume.layer().durability(durability), SSE);
        Self {
            resume,
            app,
            feed,
            restarts,
            lost,
        }
    }

    async fn read(&self, cursor: &str) -> Client {
        Client::open(&self.app, with_cursor("/", cursor)).await
    }
}

fn head(dialect: Option<Dialect>, seed: Option<&'static str>) -> Head {
    let response = http::Response::builder().header("content-type", SSE);
    let (parts, ()) = response.body(()).unwrap().into_parts();
    let mut head = Head::of(&parts, dialect).unwrap();
    head.seed = seed.map(Into::into);
    head
}

/// What a server leaves that was killed after it had stored `stored` records of this stream. Its public id.
async fn orphan(log: &Memory, replica: &Replica, head: Head, stored: u64) -> String {
    let id = StreamId::random();
    let new = NewStream::new(head.encode(), 5 * SECOND);
    log.create(&id, new).await.unwrap();
    let records = (1..=stored).map(|n| format!("data: {n}\n\n").into());
    let entry = Entry::records(1, records.collect());
    let stored = log.append(&id, Epoch::FIRST, &entry, Overflow::Refuse);
    stored.await.unwrap();
    replica.resume.shared.issuer.issue(&id, Some("alice"))
}

fn ids(client: &Client) -> Vec<&str> {
    let ids = client
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("id: "));
    ids.map(|id| id.split_once('.').unwrap().1).collect()
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_where_the_lost_producer_was() {
    let log = Memory::new();
    let there = Replica::new(&log);
    let public = orphan(&log, &there, head(None, Some("seed")), 3).await;
    let mut reader = there.read(&format!("{public}.1.2")).await;
    let reads = tokio::spawn(async move {
        reader.until("data: 4").await;
        reader.rest().await;
        reader
    });
    sleep(8 * SECOND).await;
    let lost = there.lost.lock()[0].clone();
    assert_eq!((lost.records(), lost.attempt()), (3, 1));
    assert_eq!(lost.seed(), "seed");
    let stored = lost.stored().await.unwrap();
    assert_eq!((stored.first, stored.next()), (1, 4));
    assert_eq!(stored.records[2], "data: 3\n\n");
    there.restarts.send("data: 4\n\n");
    // Longer than a lease, and the new producer keeps it.
    sleep(20 * SECOND).await;
    there.restarts.send("data: 5\n\n");
    there.restarts.end();
    let reader = reads.await.unwrap();
    assert_eq!(reader.failed, None);
    assert_eq!(Events::of(&reader.text).data, ["3", "4", "5"]);
    assert_eq!(ids(&reader), ["1.3", "2.4", "2.5", "2.6"]);
    assert_eq!(there.restarts.called(), 1);
    assert_eq!(there.resume.stats().restarted, 1);
    // From any cursor of either epoch.
    for (cursor, rest) in [("1.1", 4), ("1.3", 2), ("2.4", 1)] {
        let mut late = there.read(&format!("{public}.{cursor}")).await;
        late.rest().await;
        assert_eq!(Events::of(&late.text).data.len(), rest, "{cursor}");
        assert!(!late.text.contains("gap"), "{cursor}");
    }
    let over = with_cursor("/", &format!("{public}.2.6"));
    assert_eq!(status_of(&there.app, over).await, StatusCode::NO_CONTENT);
}

#[tokio::test(start_paused = true)]
async fn of_two_servers_that_restart_at_once_one_produces_and_the_other_reads() {
    let log = Memory::new();
    let (one, two) = (Replica::new(&log), Replica::new(&log));
    let public = orphan(&log, &one, head(None, Some("seed")), 3).await;
    let cursor = format!("{public}.1.3");
    let (mut at_one, mut at_two) = tokio::join!(one.read(&cursor), two.read(&cursor));
    let reads = tokio::spawn(async move {
        tokio::join!(at_one.rest(), at_two.rest());
        [at_one, at_two]
    });
    sleep(8 * SECOND).await;
    assert_eq!(one.restarts.called() + two.restarts.called(), 1);
    let winner = if one.restarts.called() == 1 {
        &one
    } else {
        &two
    };
    for n in 4..7 {
        winner.restarts.send(format!("data: {n}\n\n"));
        sleep(3 * SECOND).await;
    }
    winner.restarts.end();
    for reader in reads.await.unwrap() {
        assert_eq!(Events::of(&reader.text).data, ["4", "5", "6"]);
        // Also at the server that only reads.
        assert_eq!(ids(&reader), ["2.4", "2.5", "2.6", "2.7"]);
        assert_eq!(reader.failed, None);
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_come_before_a_reader_knows_of_the_takeover_have_their_epoch() {
    let log = Memory::new();
    let (one, two) = (Replica::new(&log), Replica::new(&log));
    let public = orphan(&log, &one, head(None, Some("seed")), 3).await;
    // It looks every second, so at 4.9 s, and the lease expires at 5 s.
    sleep(SECOND * 9 / 10).await;
    let cursor = format!("{public}.1.3");
    let mut reader = two.read(&cursor).await;
    let reads = tokio::spawn(async move {
        reader.rest().await;
        reader
    });
    sleep(SECOND * 415 / 100).await;
    let id = one.resume.shared.issuer.read(&public, Some("alice"));
    let id = id.unwrap();
    let claimed = log
        .take_over(&id, crate::Takeover::IfExpired)
        .await
        .unwrap();
    let mut entry = Entry::records(4, vec!["data: 4\n\n".into()]);
    entry.end = Some(crate::End::Complete);
    let stored = log.append(&id, claimed.epoch, &entry, Overflow::Refuse);
    stored.await.unwrap();
    let reader = reads.await.unwrap();
    assert_eq!(ids(&reader), ["2.4", "2.5"]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_with_records_that_were_not_stored_is_told_where_the_stream_parts() {
    let log = Memory::new();
    let there = Replica::new(&log);
    let gap = "event: gap\nid: ";
    // One waits while the lease still lives, and one comes when the stream has been restarted.
    let public = orphan(&log, &there, head(None, Some("seed")), 3).await;
    let mut waits = there.read(&format!("{public}.1.5")).await;
    let reads = tokio::spawn(async move {
        waits.rest().await;
        waits
    });
    sleep(8 * SECOND).await;
    let mut late = there.read(&format!("{public}.1.9")).await;
    for n in ["four", "five", "six"] {
        there.restarts.send(format!("data: {n}\n\n"));
    }
    late.until("data: six").await;
    let cursor = late.cursor();
    there.restarts.end();
    late.rest().await;
    for reader in [&late, &reads.await.unwrap()] {
        let told = "{\"first\":4,\"missed\":0,\"forked_at\":4}";
        assert_eq!(Events::of(&reader.text).data, [told, "four", "five", "six"]);
        assert!(reader.text.contains(gap), "{}", reader.text);
    }
    assert_eq!(there.resume.stats().gaps, 2);
    // It is told once.
    let mut again = there.read(&cursor).await;
    again.rest().await;
    assert_eq!(Events::of(&again.text).data.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_told_fails_unless_readers_get_only_what_is_stored() {
    for durability in [Durability::Live, Durability::Stored] {
        let log = Memory::new();
        let there = Replica::new(&log);
        let mut head = head(Some(Dialect::OPENAI_CHAT), Some("seed"));
        head.durability = durability;
        let public = orphan(&log, &there, head, 3).await;
        let open = |after| {
            Client::open(
                &there.app,
                request(&format!("/streams/{public}?after={after}")),
            )
        };
        let mut first = open(3).await;
        let reads = tokio::spawn(async move {
            first.rest().await;
            first
        });
        sleep(8 * SECOND).await;
        there.restarts.send("data: 4\n\ndata: 5\n\n");
        sleep(SECOND).await;
        // The number of the records that this reader has got.
        let mut again = open(4).await;
        there.restarts.end();
        again.rest().await;
        let kind = again.failed.as_ref().map(Cause::kind);
        match durability {
            Durability::Live => assert_eq!(kind, Some(FaultKind::Incomplete)),
            Durability::Stored => {
                assert_eq!(kind, None);
                assert_eq!(again.text, "data: 5\n\n");
            }
        }
        let first = reads.await.unwrap();
        assert_eq!(
            (&first.text[..], first.failed),
            ("data: 4\n\ndata: 5\n\n", None)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_fork_is_a_gap_for_those_that_refuse_gaps() {
    let log = Memory::new();
    let restarts = Feed::default();
    let resume = {
        let restarts = restarts.clone();
        builder(Faulty::shared(log.clone()))
            .refuse_gaps(true)
            .restart(move |_| {
                let body = restarts.response_body();
                async { Some(body) }
            })
    };
    let resume = resume.build();
    let (app, _) = app(&resume, resume.layer(), SSE);
    let replica = Replica::new(&log);
    let public = orphan(&log, &replica, head(None, Some("seed")), 3).await;
    sleep(6 * SECOND).await;
    for (cursor, status) in [("1.3", StatusCode::OK), ("1.4", StatusCode::GONE)] {
        let request = with_cursor("/", &format!("{public}.{cursor}"));
        assert_eq!(status_of(&app, request).await, status, "{cursor}");
    }
    sleep(SECOND).await;
    assert_eq!(restarts.called(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_seed_or_whose_function_declines_or_panics_ends() {
    let log = Memory::new();
    let there = Replica::new(&log);
    for (seed, panics, kind) in [
        (None, false, FaultKind::ProducerLost),
        (Some("no"), false, FaultKind::ProducerLost),
        (Some("seed"), true, FaultKind::Panic),
    ] {
        let public = orphan(&log, &there, head(None, seed), 3).await;
        sleep(6 * SECOND).await;
        let mut reader = there.read(&format!("{public}.1.3")).await;
        if panics {
            sleep(SECOND).await;
            there.restarts.send("panic");
        }
        reader.rest().await;
        assert_eq!(reader.failed.unwrap().kind(), kind, "{seed:?}");
    }
    assert_eq!(there.restarts.called(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_stream_is_restarted_again() {
    let log = Memory::new();
    let (one, two) = (Replica::new(&log), Replica::new(&log));
    let public = orphan(&log, &one, head(None, Some("seed")), 1).await;
    let id = one
        .resume
        .shared
        .issuer
        .read(&public, Some("alice"))
        .unwrap();
    // Another one that restarted the stream, stored a record, and was killed.
    sleep(6 * SECOND).await;
    let claimed = log
        .take_over(&id, crate::Takeover::IfExpired)
        .await
        .unwrap();
    let entry = Entry::records(2, vec!["data: 2\n\n".into()]);
    let stored = log.append(&id, claimed.epoch, &entry, Overflow::Refuse);
    stored.await.unwrap();
    sleep(6 * SECOND).await;
    let mut reader = two.read(&format!("{public}.1.0")).await;
    sleep(SECOND).await;
    two.restarts.send("data: 3\n\n");
    reader.until("data: 3").await;
    two.restarts.end();
    reader.rest().await;
    assert_eq!(two.lost.lock()[0].attempt(), 2);
    assert_eq!(ids(&reader), ["1.0", "1.1", "2.2", "3.3", "3.4"]);
    assert_eq!(Events::of(&reader.text).data, ["1", "2", "3"]);
}

/// A request whose stream can be restarted.
fn with_seed(replica: &Replica, seed: &'static str) -> Router {
    let layer =
        axum::middleware::map_response(move |mut response: axum::response::Response| async move {
            response.extensions_mut().insert(Restart::new(seed));
            response
        });
    let feed = replica.feed.clone();
    let handler = move || async move { ([("content-type", SSE)], feed.response_body()) };
    Router::new()
        .route("/", axum::routing::get(handler))
        .layer(layer)
        .layer(replica.resume.layer())
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_drain_hands_the_stream_to_another_server() {
    let (log, down) = (Memory::new(), Arc::default());
    let here = Replica::with(&log, &down, Durability::Live);
    let there = Replica::new(&log);
    let deadline = Deadline::default();
    let (opened, _) = outside(request("/"), &deadline);
    let mut first = Client::open(&with_seed(&here, "seed"), opened).await;
    here.feed.send("data: 1\n\n");
    first.until("data: 1").await;
    // Not stored before the deadline, but after it.
    down.store(true, Ordering::Relaxed);
    here.feed.send("data: 2\n\n");
    first.until("data: 2").await;
    let cursor = first.cursor();
    deadline.now();
    first.rest().await;
    assert_eq!(first.failed.unwrap().kind(), FaultKind::Drain, "come back");
    assert!(here.feed.is_dropped());
    down.store(false, Ordering::Relaxed);
    sleep(SECOND).await;
    assert_eq!(here.resume.stats().producers, 0);
    let public = cursor.split('.').next().unwrap();
    let id = here
        .resume
        .shared
        .issuer
        .read(public, Some("alice"))
        .unwrap();
    let status = log.status(&id).await.unwrap();
    assert_eq!((status.next, status.end), (3, None), "no end is stored");
    let mut second = there.read(&cursor).await;
    let reads = tokio::spawn(async move {
        second.rest().await;
        second
    });
    sleep(8 * SECOND).await;
    there.restarts.send("data: 3\n\n");
    there.restarts.end();
    let second = reads.await.unwrap();
    assert_eq!(Events::of(&second.text).data, ["3"]);
    assert_eq!(second.failed, None);
}

#[tokio::test(start_paused = true)]
async fn readers_of_a_producer_that_was_only_cut_off_go_on_with_the_new_one() {
    let (log, down) = (Memory::new(), Arc::default());
    let here = Replica::with(&log, &down, Durability::Live);
    let there = Replica::new(&log);
    let mut first = Client::open(&with_seed(&here, "seed"), request("/")).await;
    here.feed.send("data: 1\n\n");
    first.until("data: 1").await;
    let cursor = first.cursor();
    sleep(SECOND).await;
    // It does not reach the log any more, but its reader still reads.
    down.store(true, Ordering::Relaxed);
    here.feed.send("data: 2\n\n");
    first.until("data: 2").await;
    let mut second = there.read(&cursor).await;
    let reads = tokio::spawn(async move {
        second.rest().await;
        second
    });
    sleep(8 * SECOND).await;
    there.restarts.send("data: two\n\n");
    sleep(SECOND).await;
    down.store(false, Ordering::Relaxed);
    first.until("data: two").await;
    assert!(here.feed.is_dropped(), "the old producer stops");
    there.restarts.end();
    first.rest().await;
    let told = "{\"first\":2,\"missed\":0,\"forked_at\":2}";
    assert_eq!(Events::of(&first.text).data, ["1", "2", told, "two"]);
    assert_eq!(first.failed, None);
    let second = reads.await.unwrap();
    assert_eq!(Events::of(&second.text).data, ["two"]);
    assert_eq!(here.resume.stats().broken, 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_stream_is_not_restarted() {
    let log = Memory::new();
    let (here, there) = (Replica::new(&log), Replica::new(&log));
    let mut first = Client::open(&with_seed(&here, "seed"), request("/")).await;
    here.feed.send("data: 1\n\n");
    first.until("data: 1").await;
    let mut cancel = request(&format!("/streams/{}", first.id()));
    *cancel.method_mut() = http::Method::DELETE;
    assert_eq!(
        send(&there.app, cancel).await.status(),
        StatusCode::NO_CONTENT
    );
    first.rest().await;
    assert_eq!(first.failed.as_ref().unwrap().kind(), FaultKind::Cancelled);
    sleep(10 * SECOND).await;
    assert!(here.feed.is_dropped());
    let mut late = there.read(&first.cursor()).await;
    late.rest().await;
    assert_eq!(late.failed.unwrap().kind(), FaultKind::Cancelled);
    assert_eq!(there.restarts.called(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_seed_that_is_too_long_is_not_stored() {
    let long = vec![0; Restart::MAX_SEED + 1];
    assert_eq!(Restart::new(long.clone()).seed(), None);
    assert_eq!(
        Restart::new(long[1..].to_vec()).seed().unwrap().len(),
        Restart::MAX_SEED
    );
}
