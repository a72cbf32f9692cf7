//! The checks, one per promise of [`StreamLog`](crate::StreamLog).

use std::time::Duration;

use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::{join, join_all},
};
use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};
use tower_stream_core::{Cause, FaultKind};

use super::{Case, Conformance, entry, record};
use crate::{
    Created, End, Entry, Epoch, LogErrorKind, NewStream, Overflow, StreamId, StreamKey, Takeover,
};

const FIRST: Epoch = Epoch::FIRST;

fn second() -> Epoch {
    FIRST.next()
}

pub(super) async fn all(suite: &Conformance) {
    a_stream_that_does_not_exist(suite).await;
    an_id_is_taken_once(suite.stream("an id is taken once").await).await;
    records_are_returned_as_they_are(suite.stream("bytes, unchanged").await).await;
    an_append_compares(suite.stream("an append compares").await).await;
    an_append_can_be_repeated(suite.stream("an append can be repeated").await).await;
    one_of_several_appends(suite.stream("one of several appends").await).await;
    the_end_takes_an_offset(suite.stream("the end takes an offset").await).await;
    a_failure_is_kept(suite.stream("a failure is kept").await).await;
    any_offset(suite.stream("a reader from any offset").await).await;
    ahead_of_the_log(suite.stream("a reader ahead of the log").await).await;
    live(suite.stream("a live reader").await).await;
    joining(
        suite
            .stream("readers that join while records are appended")
            .await,
    )
    .await;
    a_reader_that_is_not_polled(suite.stream("a reader that is not polled").await).await;
    a_lease_expires(suite.stream("a lease expires").await).await;
    a_lease_is_renewed(suite.stream("a lease is renewed").await).await;
    a_takeover_fences(suite.stream("a takeover fences").await).await;
    one_of_several_takeovers(suite.stream("one of several takeovers").await).await;
    a_reader_is_noted(suite.stream("a reader is noted").await).await;
    after_the_end(suite.stream("after the end").await).await;
    a_stream_is_deleted(suite.stream("a stream is deleted").await).await;
    keys(suite).await;
    joined_keys(suite).await;
    if let Some(bytes) = suite.fills {
        a_full_stream_refuses(suite.stream("a full stream refuses").await, bytes).await;
        a_full_stream_trims(suite.stream("a full stream trims").await, bytes).await;
    }
}

async fn a_stream_that_does_not_exist(suite: &Conformance) {
    let case = Case {
        suite,
        name: "a stream that does not exist",
        id: StreamId::random(),
    };
    let log = &suite.first;
    let missing = LogErrorKind::NotFound;
    case.fails("append", case.append(FIRST, &entry(1, 1)).await, missing);
    case.fails("renew", log.renew(&case.id, FIRST).await, missing);
    let taken = log.take_over(&case.id, Takeover::Always).await;
    case.fails("take over", taken, missing);
    case.fails("status", log.status(&case.id).await, missing);
    let noted = log.attend(&case.id, suite.lease).await;
    case.fails("attend", noted, missing);
    case.fails("read", case.read(0).item().await.expect("an item"), missing);
    assert!(!log.delete(&case.id).await.expect(case.name), "delete");
    let found = log.find(case.id.as_bytes()).await;
    assert_eq!(found.expect(case.name), None, "find");
}

async fn an_id_is_taken_once(case: Case<'_>) {
    let new = NewStream::new("again", case.suite.lease);
    let again = case.suite.second.create(&case.id, new).await;
    case.fails("create", again, LogErrorKind::Exists);
    let status = case.suite.second.status(&case.id).await.expect(case.name);
    assert_eq!(status.meta, case.name, "the meta of the first one");
    assert_eq!((status.epoch, status.first, status.next), (FIRST, 1, 1));
    assert_eq!((status.bytes, status.end, status.forks), (0, None, vec![]));
}

async fn records_are_returned_as_they_are(case: Case<'_>) {
    case.appended(1, 1).await;
    case.appended(2, 30).await;
    case.ended(32).await;
    assert_eq!(case.read(0).until_end(32).await, End::Complete);
    let status = case.suite.second.status(&case.id).await.expect(case.name);
    let bytes: usize = (1..32).map(|offset| record(offset).len()).sum();
    assert_eq!((status.first, status.next), (1, 33), "{}", case.name);
    assert_eq!(status.bytes, bytes as u64, "{}: bytes", case.name);
    assert_eq!(status.end_offset(), Some(32));
}

async fn an_append_compares(case: Case<'_>) {
    case.appended(1, 3).await;
    let conflict = LogErrorKind::Conflict { next: 4 };
    for (first, count) in [(5, 1), (3, 2), (1, 4), (2, 2), (1, 2)] {
        let wrong = case.append(FIRST, &entry(first, count)).await;
        case.fails(&format!("{count} at {first}"), wrong, conflict);
    }
    let end = Entry::end(5, End::Complete);
    case.fails("a late end", case.append(FIRST, &end).await, conflict);
    let foreign = case.append(second(), &entry(4, 1)).await;
    case.fails("an epoch that is not open", foreign, LogErrorKind::Fenced);
    case.appended(4, 1).await;
    case.ended(5).await;
    case.read(0).until_end(5).await;
}

async fn an_append_can_be_repeated(case: Case<'_>) {
    for _ in 0..3 {
        case.appended(1, 2).await;
    }
    for _ in 0..2 {
        case.appended(3, 1).await;
    }
    let mut last = entry(4, 2);
    last.end = Some(End::Complete);
    for _ in 0..3 {
        let stored = case.append(FIRST, &last).await;
        stored.unwrap_or_else(|error| panic!("{}: {error:?}", case.name));
    }
    case.read(0).until_end(6).await;
}

async fn one_of_several_appends(case: Case<'_>) {
    // Of two producers that believe to be the only one, one fails: unless their entries are equal, which is a retry.
    let (one, two) = (entry(1, 1), entry(1, 2));
    let log = [&case.suite.first, &case.suite.second];
    let appends = (0..8).map(|n| {
        let entry = [&one, &two][n % 2];
        let append = log[n / 2 % 2].append(&case.id, FIRST, entry, Overflow::Refuse);
        async move { (entry.records.len() as u64, append.await) }
    });
    let done = join_all(appends).await;
    let stored: Vec<_> = done.iter().filter(|(_, done)| done.is_ok()).collect();
    let status = case.suite.first.status(&case.id).await.expect(case.name);
    assert!(!stored.is_empty(), "{}: none was stored", case.name);
    for (count, _) in stored {
        assert_eq!(1 + count, status.next, "{}: two were stored", case.name);
    }
}

async fn the_end_takes_an_offset(case: Case<'_>) {
    case.ended(1).await;
    let status = case.suite.second.status(&case.id).await.expect(case.name);
    assert_eq!((status.next, status.end_offset()), (2, Some(1)));
    assert_eq!((status.lease, status.end), (None, Some(End::Complete)));
    case.read(0).until_end(1).await;
}

async fn a_failure_is_kept(case: Case<'_>) {
    let cause = Cause::new(FaultKind::Timeout, "no token for 30 s: \u{1f40c}");
    let end = End::Failed(cause.with_retry_after(Duration::from_millis(1_500)));
    let mut last = entry(1, 2);
    last.end = Some(end.clone());
    case.append(FIRST, &last).await.expect(case.name);
    for after in 0..2 {
        assert_eq!(case.read(after).until_end(3).await, end, "{}", case.name);
    }
    let status = case.suite.second.status(&case.id).await.expect(case.name);
    assert_eq!(status.end, Some(end));
}

async fn any_offset(case: Case<'_>) {
    // Entries of several lengths, so that readers start in the middle of one.
    for (first, count) in [(1, 1), (2, 4), (6, 2)] {
        case.appended(first, count).await;
    }
    for after in 0..7 {
        case.read(after).up_to(7).await;
    }
    case.ended(8).await;
    for after in 0..8 {
        case.read(after).until_end(8).await;
    }
    // At the end, and behind it: the end again.
    for after in [8, 9, 1 << 40] {
        let mut reading = case.read(after);
        let item = reading.item().await.expect("an item").expect(case.name);
        assert_eq!(item, Entry::end(8, End::Complete), "{}", case.name);
        assert!(reading.item().await.is_none(), "{}", case.name);
    }
}

async fn ahead_of_the_log(case: Case<'_>) {
    case.appended(1, 2).await;
    let mut ahead = case.read(4);
    let mut behind = case.read(4);
    {
        let mut item = std::pin::pin!(ahead.item());
        assert!(item.as_mut().now_or_never().is_none(), "{}", case.name);
    }
    case.appended(3, 1).await;
    case.appended(4, 3).await;
    ahead.up_to(6).await;
    case.ended(7).await;
    ahead.until_end(7).await;
    behind.until_end(7).await;
}

async fn live(case: Case<'_>) {
    let mut reading = case.read(0);
    for offset in 1..20 {
        case.appended(offset, 1).await;
        reading.up_to(offset).await;
    }
    case.ended(20).await;
    reading.until_end(20).await;
}

/// Snapshot, then live: a reader that joins at any moment sees everything once.
async fn joining(case: Case<'_>) {
    const RECORDS: u64 = 60;
    let produce = async {
        for offset in 1..=RECORDS {
            case.appended(offset, 1).await;
            yield_now().await;
        }
        case.ended(RECORDS + 1).await;
    };
    let read = |turns: u64| {
        let case = &case;
        async move {
            for _ in 0..turns {
                yield_now().await;
            }
            // Each from an offset that may be stored, just now being stored, or not yet stored.
            case.read(turns % RECORDS).until_end(RECORDS + 1).await;
        }
    };
    let readers = join_all((0..40).map(|n| read(n * 3)));
    join(produce, readers).await;
}

async fn a_reader_that_is_not_polled(case: Case<'_>) {
    case.appended(1, 1).await;
    let mut slow = case.read(0);
    slow.up_to(1).await;
    let mut fast = case.read(0);
    for offset in 2..200 {
        case.appended(offset, 1).await;
        fast.up_to(offset).await;
    }
    case.ended(200).await;
    slow.until_end(200).await;
}

async fn a_lease_expires(case: Case<'_>) {
    case.appended(1, 1).await;
    let status = case.suite.second.status(&case.id).await.expect(case.name);
    let left = status.lease.expect("the lease lives");
    assert!(left <= case.suite.lease, "{}: {left:?} left", case.name);
    let held = case
        .suite
        .second
        .take_over(&case.id, Takeover::IfExpired)
        .await;
    case.fails("take over", held, LogErrorKind::Held);
    case.expired().await;
    // Nobody has taken it over, so the producer may go on.
    case.appended(2, 1).await;
    let status = case.suite.second.status(&case.id).await.expect(case.name);
    assert!(status.lease.is_some(), "{}: renewed by append", case.name);
}

async fn a_lease_is_renewed(case: Case<'_>) {
    case.expired().await;
    let renewed = case.suite.first.renew(&case.id, FIRST).await;
    renewed.expect(case.name);
    let status = case.suite.second.status(&case.id).await.expect(case.name);
    assert!(status.lease.is_some(), "{}", case.name);
    let foreign = case.suite.first.renew(&case.id, second()).await;
    case.fails("another epoch", foreign, LogErrorKind::Fenced);
}

async fn a_takeover_fences(case: Case<'_>) {
    case.appended(1, 3).await;
    let mut reading = case.read(0);
    reading.up_to(3).await;
    let other = &case.suite.second;
    let claimed = other.take_over(&case.id, Takeover::Always).await;
    let claimed = claimed.expect(case.name);
    assert_eq!((claimed.epoch, claimed.next), (second(), 4));
    // Also the retry of an entry that was stored: the producer must learn that it is no longer the producer.
    for (first, count) in [(4, 1), (1, 3)] {
        let late = case.append(FIRST, &entry(first, count)).await;
        case.fails("the earlier producer", late, LogErrorKind::Fenced);
    }
    let late = case.suite.first.renew(&case.id, FIRST).await;
    case.fails("renew", late, LogErrorKind::Fenced);
    let next = entry(4, 2);
    let stored = other.append(&case.id, claimed.epoch, &next, Overflow::Refuse);
    stored.await.expect(case.name);
    let status = other.status(&case.id).await.expect(case.name);
    assert_eq!((status.epoch, &status.forks[..]), (second(), &[4][..]));
    assert_eq!((status.forked_at(FIRST), status.next), (Some(4), 6));
    assert_eq!(status.forked_at(second()), None);
    let third = other.take_over(&case.id, Takeover::Always).await;
    let third = third.expect(case.name);
    assert_eq!((third.epoch.get(), third.next), (3, 6));
    let end = Entry::end(6, End::Complete);
    let stored = other.append(&case.id, third.epoch, &end, Overflow::Refuse);
    stored.await.expect(case.name);
    reading.until_end(6).await;
    let status = other.status(&case.id).await.expect(case.name);
    assert_eq!(status.forks, [4, 6], "{}", case.name);
}

async fn one_of_several_takeovers(case: Case<'_>) {
    case.expired().await;
    let logs = [&case.suite.first, &case.suite.second];
    let takes = (0..6).map(|n| logs[n % 2].take_over(&case.id, Takeover::IfExpired));
    let taken = join_all(takes).await;
    let won = taken.iter().filter(|taken| taken.is_ok()).count();
    assert_eq!(won, 1, "{}: {taken:?}", case.name);
    for lost in taken.into_iter().filter(Result::is_err) {
        case.fails("the others", lost, LogErrorKind::Held);
    }
}

async fn a_reader_is_noted(case: Case<'_>) {
    let (log, lease) = (&case.suite.first, case.suite.lease);
    let status = log.status(&case.id).await.expect(case.name);
    assert_eq!(status.attended, None, "{}", case.name);
    let other = &case.suite.second;
    other.attend(&case.id, lease * 4).await.expect(case.name);
    other.attend(&case.id, lease / 2).await.expect(case.name);
    let status = log.status(&case.id).await.expect(case.name);
    let left = status.attended.expect("a reader");
    assert!(left > lease && left <= lease * 4, "{}: {left:?}", case.name);
    // The note of a reader renews nothing.
    case.expired().await;
    let attended = async {
        while let Some(left) = log.status(&case.id).await.expect(case.name).attended {
            sleep(left.max(Duration::from_millis(5))).await;
        }
    };
    let over = timeout(case.suite.patience, attended).await;
    assert!(over.is_ok(), "{}: a reader for ever", case.name);
}

async fn after_the_end(case: Case<'_>) {
    case.appended(1, 1).await;
    case.ended(2).await;
    let late = case.append(FIRST, &entry(3, 1)).await;
    case.fails("append", late, LogErrorKind::Ended);
    let other = End::Failed(Cause::new(FaultKind::Other, "another end"));
    let late = case.append(FIRST, &Entry::end(3, other)).await;
    case.fails("a second end", late, LogErrorKind::Ended);
    let late = case.suite.first.renew(&case.id, FIRST).await;
    case.fails("renew", late, LogErrorKind::Ended);
    for takeover in [Takeover::IfExpired, Takeover::Always] {
        let late = case.suite.second.take_over(&case.id, takeover).await;
        case.fails("take over", late, LogErrorKind::Ended);
    }
    case.read(0).until_end(2).await;
}

async fn a_stream_is_deleted(case: Case<'_>) {
    case.appended(1, 1).await;
    let mut reading = case.read(0);
    reading.up_to(1).await;
    // Not only one that is polled again later, but one that waits.
    let item = async { reading.item().await };
    let delete = async {
        yield_now().await;
        case.suite.second.delete(&case.id).await
    };
    let (item, deleted) = join(item, delete).await;
    assert!(deleted.expect(case.name), "{}", case.name);
    let missing = LogErrorKind::NotFound;
    case.fails("a waiting reader", item.expect("an item"), missing);
    assert!(
        reading.item().await.is_none(),
        "{}: after an error",
        case.name
    );
    let late = case.append(FIRST, &entry(2, 1)).await;
    case.fails("append", late, missing);
    case.fails("status", case.suite.second.status(&case.id).await, missing);
    let again = case.suite.second.delete(&case.id).await;
    assert!(!again.expect(case.name), "{}: deleted twice", case.name);
}

fn key(name: &Bytes, join: bool) -> Option<StreamKey> {
    let name = name.clone();
    Some(StreamKey { name, join })
}

async fn keys(suite: &Conformance) {
    let name = "the latest stream of a key";
    let log = &suite.first;
    // Any bytes, as in the ids of an application.
    let random = StreamId::random();
    let chat = Bytes::from([b"chat {7}.*> \0\xff:", &random.as_bytes()[..]].concat());
    assert_eq!(log.find(&chat).await.expect(name), None, "{name}");
    let ids = [StreamId::random(), StreamId::random()];
    for id in &ids {
        let mut new = NewStream::new(name, suite.lease);
        new.key = key(&chat, false);
        assert_eq!(log.create(id, new).await.expect(name), Created::New);
        let found = suite.second.find(&chat).await.expect(name);
        assert_eq!(found, Some(*id), "{name}");
    }
    // The key belongs to the second one now, so it stays when the first one goes.
    log.delete(&ids[0]).await.expect(name);
    let found = suite.second.find(&chat).await.expect(name);
    assert_eq!(found, Some(ids[1]), "{name}");
    log.delete(&ids[1]).await.expect(name);
    let found = suite.second.find(&chat).await.expect(name);
    assert_eq!(found, None, "{name}");
}

async fn joined_keys(suite: &Conformance) {
    let name = "a key that joins";
    let chat = Bytes::from(StreamId::random().to_string());
    let ids: Vec<_> = (0..4).map(|_| StreamId::random()).collect();
    let logs = [&suite.first, &suite.second];
    let new = || NewStream {
        key: key(&chat, true),
        ..NewStream::new(name, suite.lease)
    };
    let creates = (0..4).map(|n| logs[n % 2].create(&ids[n], new()));
    let created = join_all(creates).await;
    let created: Vec<_> = created.into_iter().map(|new| new.expect(name)).collect();
    let won: Vec<_> = (0..4).filter(|n| created[*n] == Created::New).collect();
    assert_eq!(won.len(), 1, "{name}: {created:?}");
    let winner = ids[won[0]];
    for other in created.iter().filter(|one| **one != Created::New) {
        assert_eq!(*other, Created::Joined(winner), "{name}");
    }
    // A stream that has ended is not joined.
    let end = Entry::end(1, End::Complete);
    let ended = suite.first.append(&winner, FIRST, &end, Overflow::Refuse);
    ended.await.expect(name);
    let later = StreamId::random();
    let created = suite.second.create(&later, new()).await;
    assert_eq!(created.expect(name), Created::New, "{name}: after the end");
    let found = suite.first.find(&chat).await;
    assert_eq!(found.expect(name), Some(later), "{name}");
}

/// A record of 1 KiB. It starts with its offset.
fn kilobyte(offset: u64) -> Bytes {
    let mut record = offset.to_be_bytes().to_vec();
    record.resize(1_024, b'x');
    record.into()
}

async fn a_full_stream_refuses(case: Case<'_>, bytes: usize) {
    let mut next = 1;
    let refused = loop {
        let one = Entry::records(next, vec![kilobyte(next)]);
        match case.append(FIRST, &one).await {
            Ok(()) => next += 1,
            Err(error) => break error.kind(),
        }
        let stored = next as usize * 1_024;
        assert!(stored <= 4 * bytes, "{}: no bound", case.name);
    };
    assert_eq!(refused, LogErrorKind::Full, "{}", case.name);
    let status = case.suite.second.status(&case.id).await.expect(case.name);
    assert_eq!((status.first, status.next), (1, next), "{}", case.name);
    let mut reader = case.suite.second.read(&case.id, 0);
    // The end is stored all the same.
    case.ended(next).await;
    let mut found = 1;
    while let Some(item) = reader.next().await {
        for record in item.expect(case.name).records {
            assert_eq!(record, kilobyte(found), "{}", case.name);
            found += 1;
        }
    }
    assert_eq!(found, next, "{}", case.name);
}

async fn a_full_stream_trims(case: Case<'_>, bytes: usize) {
    let last = (4 * bytes / 1_024) as u64;
    let mut early = case.suite.second.read(&case.id, 0);
    for offset in 1..=last {
        let one = Entry::records(offset, vec![kilobyte(offset)]);
        let stored = case
            .suite
            .first
            .append(&case.id, FIRST, &one, Overflow::Trim);
        stored.await.expect(case.name);
    }
    let status = case.suite.second.status(&case.id).await.expect(case.name);
    assert!(status.first > 1, "{}: nothing was trimmed", case.name);
    assert!(status.bytes <= 2 * bytes as u64, "{}: no bound", case.name);
    case.ended(last + 1).await;
    // Both readers continue at the first record that is kept, and miss nothing after it.
    for after in [0, status.first - 1] {
        let mut found = after;
        let mut reader = match after {
            0 => std::mem::replace(&mut early, case.suite.second.read(&case.id, 0)),
            after => case.suite.second.read(&case.id, after),
        };
        let patience = case.suite.patience;
        while let Some(item) = timeout(patience, reader.next()).await.expect(case.name) {
            let item = item.expect(case.name);
            assert!(item.first > found, "{}: {} again", case.name, item.first);
            let hole = item.first != found + 1 && !item.records.is_empty();
            assert!(!hole || item.first >= status.first, "{}: a hole", case.name);
            found = item.first - 1;
            for record in &item.records {
                found += 1;
                assert_eq!(*record, kilobyte(found), "{}", case.name);
            }
        }
        assert_eq!(found, last, "{}", case.name);
    }
}
