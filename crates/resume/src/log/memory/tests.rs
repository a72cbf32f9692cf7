use futures_util::{FutureExt, StreamExt};
use tokio::time::advance;

use super::{kept::READ_RECORDS, *};
use crate::{End, conformance::Conformance};

const LEASE: Duration = Duration::from_secs(5);

fn records(first: u64, count: u64) -> Entry {
    let record = |offset: u64| Bytes::from(format!("{offset:0100}"));
    Entry::records(first, (first..first + count).map(record).collect())
}

async fn stream(log: &Memory) -> StreamId {
    let id = StreamId::random();
    let created = log.create(&id, NewStream::new("", LEASE)).await;
    assert_eq!(created.unwrap(), Created::New);
    id
}

async fn kind<T: fmt::Debug>(done: LogFuture<'_, T>) -> LogErrorKind {
    done.await.unwrap_err().kind()
}

#[tokio::test(start_paused = true)]
async fn it_conforms() {
    let max = 256 * 1_024;
    let log = Memory::builder().max_stream_bytes(max).build();
    let suite = Conformance::new(Arc::new(log)).max_stream_bytes(max);
    suite.run().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_kept_for_an_age_after_its_last_write() {
    let log = Memory::builder().max_age(Duration::from_secs(60)).build();
    let id = stream(&log).await;
    advance(Duration::from_secs(59)).await;
    log.renew(&id, Epoch::FIRST).await.unwrap();
    advance(Duration::from_secs(59)).await;
    let one = records(1, 1);
    let stored = log.append(&id, Epoch::FIRST, &one, Overflow::Refuse);
    stored.await.unwrap();
    let mut waiting = log.read(&id, 1);
    assert!(waiting.next().now_or_never().is_none());
    advance(Duration::from_secs(59)).await;
    assert!(log.status(&id).await.is_ok());
    assert!(waiting.next().now_or_never().is_none());
    // Reads do not keep it.
    let gone = waiting.next().await.unwrap().unwrap_err();
    assert_eq!(gone.kind(), LogErrorKind::NotFound);
    assert_eq!(kind(log.status(&id)).await, LogErrorKind::NotFound);
    assert_eq!((log.streams(), log.bytes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn old_streams_go_when_a_new_one_comes() {
    let log = Memory::builder().max_age(LEASE).build();
    for _ in 0..9 {
        stream(&log).await;
    }
    let half = LEASE / 2;
    advance(half).await;
    let renewed = stream(&log).await;
    advance(half).await;
    log.renew(&renewed, Epoch::FIRST).await.unwrap();
    // Nine are too old now. The tenth is not when it is looked at, and is looked at again later.
    for left in [2, 3] {
        advance(half - Duration::from_millis(1)).await;
        stream(&log).await;
        assert_eq!((log.streams(), log.bytes()), (left, left * STREAM_COST));
    }
    advance(half).await;
    stream(&log).await;
    assert_eq!(log.streams(), 3, "the one that was renewed is gone");
}

#[tokio::test(start_paused = true)]
async fn a_full_log_removes_streams_that_ended_and_never_one_that_runs() {
    let max = 20 * STREAM_COST;
    let log = Memory::builder().max_bytes(max).build();
    let end = |id| {
        let log = log.clone();
        async move {
            let end = Entry::end(1, End::Complete);
            log.append(&id, Epoch::FIRST, &end, Overflow::Refuse)
                .await
                .unwrap();
        }
    };
    let lost = stream(&log).await;
    advance(LEASE).await;
    let (running, first) = (stream(&log).await, stream(&log).await);
    end(first).await;
    for _ in 3..20 {
        let id = stream(&log).await;
        end(id).await;
        advance(Duration::from_millis(1)).await;
    }
    // Full: the one that ended first goes, and one more so that the next create need not search.
    stream(&log).await;
    assert_eq!(kind(log.status(&first)).await, LogErrorKind::NotFound);
    assert!(log.status(&lost).await.is_ok(), "an ended one went first");
    let mut created = 0;
    while log
        .create(&StreamId::random(), NewStream::new("", LEASE))
        .await
        .is_ok()
    {
        created += 1;
        assert!(log.bytes() <= max && created < 30);
    }
    assert_eq!(kind(log.status(&lost)).await, LogErrorKind::NotFound);
    assert!(log.status(&running).await.is_ok());
    let another = StreamId::random();
    let refused = log.create(&another, NewStream::new("", LEASE));
    assert_eq!(kind(refused).await, LogErrorKind::Full);
    // Nor is there room for records, except in place of the stream's own.
    let one = records(1, 1);
    let full = log.append(&running, Epoch::FIRST, &one, Overflow::Refuse);
    assert_eq!(kind(full).await, LogErrorKind::Full);
    let end = Entry::end(1, End::Complete);
    let ended = log.append(&running, Epoch::FIRST, &end, Overflow::Refuse);
    ended.await.unwrap();
}

#[tokio::test]
async fn an_entry_over_the_bound_is_never_stored() {
    let log = Memory::builder().max_stream_bytes(1_000).build();
    let id = stream(&log).await;
    for overflow in [Overflow::Refuse, Overflow::Trim] {
        let large = records(1, 7);
        let append = log.append(&id, Epoch::FIRST, &large, overflow);
        assert_eq!(kind(append).await, LogErrorKind::TooLarge);
    }
    let stored = log
        .append(&id, Epoch::FIRST, &records(1, 6), Overflow::Refuse)
        .await;
    stored.unwrap();
    let full = records(7, 1);
    let full = log.append(&id, Epoch::FIRST, &full, Overflow::Refuse);
    assert_eq!(kind(full).await, LogErrorKind::Full);
    let trimmed = records(7, 2);
    log.append(&id, Epoch::FIRST, &trimmed, Overflow::Trim)
        .await
        .unwrap();
    let status = log.status(&id).await.unwrap();
    assert_eq!((status.first, status.next, status.bytes), (3, 9, 600));
    assert_eq!(log.bytes(), STREAM_COST + 6 * 164);
    log.delete(&id).await.unwrap();
    assert_eq!(log.bytes(), 0);
}

#[tokio::test]
async fn a_long_stream_is_read_in_bounded_items() {
    let log = Memory::new();
    let id = stream(&log).await;
    let stored = log
        .append(&id, Epoch::FIRST, &records(1, 3_000), Overflow::Refuse)
        .await;
    stored.unwrap();
    let mut reader = log.read(&id, 0);
    let mut next = 1;
    while next <= 3_000 {
        let item = reader.next().await.unwrap().unwrap();
        assert!(item.records.len() <= READ_RECORDS);
        assert_eq!(item.first, next);
        next = item.next();
    }
}
