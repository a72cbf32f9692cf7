//! Producers and logs that die.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use tokio::{task::yield_now, time::advance};
use tower_stream_core::{Cause, FaultKind};

use super::support::{Client, Events, SSE, app, request, resume, send, status_of, with_cursor};
use crate::{
    Claimed, Created, Entry, Epoch, LogError, LogErrorKind, LogFuture, LogReader, Memory,
    NewStream, Overflow, Status, StreamId, StreamLog, Takeover, WhoLeft, head::Head,
};

#[tokio::test(start_paused = true)]
async fn a_panic_and_an_error_are_stored_as_the_end() {
    let resume = resume(Memory::new());
    let (app, feed) = app(&resume, resume.layer(), SSE);
    for kind in [FaultKind::Panic, FaultKind::Timeout] {
        let mut first = Client::open(&app, request("/")).await;
        feed.send("data: 1\n\ndata: half");
        match kind {
            FaultKind::Panic => feed.send("panic"),
            kind => {
                let error = tower_stream_core::Cause::new(kind, "late");
                feed.last().send(Err(error.into())).unwrap();
            }
        }
        first.rest().await;
        assert_eq!(first.failed.as_ref().unwrap().kind(), kind);
        assert_eq!(Events::of(&first.text).data, ["1"]);
        let mut again = Client::open(&app, with_cursor("/", &first.cursor())).await;
        again.rest().await;
        assert_eq!(again.failed, first.failed);
        assert_eq!(again.text, "");
    }
}

#[tokio::test(start_paused = true)]
async fn the_readers_of_a_dead_replica_get_what_is_stored_and_then_the_truth() {
    let log = Memory::new();
    let resume = resume(log.clone());
    let (app, feed) = app(&resume, resume.layer(), SSE);
    // What a replica leaves that was killed.
    let id = StreamId::random();
    let response = http::Response::builder().header("content-type", SSE);
    let (parts, ()) = response.body(()).unwrap().into_parts();
    let head = Head::of(&parts, None).unwrap().encode();
    let new = NewStream::new(head, Duration::from_secs(5));
    log.create(&id, new).await.unwrap();
    let records = ["data: 1\n\n", "data: 2\n\n"].map(Into::into);
    let entry = Entry::records(1, records.into());
    log.append(&id, Epoch::FIRST, &entry, Overflow::Refuse)
        .await
        .unwrap();
    let public = resume.shared.issuer.issue(&id, Some("alice"));
    let started = tokio::time::Instant::now();
    // Two readers at once, one of which has seen a record that was not stored.
    let mut reader = Client::open(&app, with_cursor("/", &format!("{public}.1.1"))).await;
    let mut ahead = Client::open(&app, with_cursor("/", &format!("{public}.1.3"))).await;
    tokio::join!(reader.rest(), ahead.rest());
    assert_eq!(Events::of(&reader.text).data, ["2"]);
    assert_eq!(ahead.text, "");
    let lost = |client: &Client| client.failed.as_ref().map(Cause::kind);
    assert_eq!(lost(&reader), Some(FaultKind::ProducerLost));
    assert_eq!(lost(&ahead), Some(FaultKind::ProducerLost));
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(8));
    // It is stored, for everyone who comes later.
    let status = log.status(&id).await.unwrap();
    assert_eq!(status.end_offset(), Some(3));
    for offset in [1, 2, 3] {
        let mut late = Client::open(&app, with_cursor("/", &format!("{public}.1.{offset}"))).await;
        late.rest().await;
        assert_eq!(lost(&late), Some(FaultKind::ProducerLost), "after {offset}");
    }
    // A cursor of an epoch that the log does not know: the log has lost something.
    let unknown = with_cursor("/", &format!("{public}.9.1"));
    assert_eq!(status_of(&app, unknown).await, StatusCode::GONE);
    assert_eq!(feed.called(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_on_another_replica_keeps_the_producer_and_cancels_it() {
    let log = Memory::new();
    let (here, there) = (resume(log.clone()), resume(log.clone()));
    let layer = here
        .layer()
        .who_left(WhoLeft::Grace(Duration::from_secs(10)));
    let (app_here, feed) = app(&here, layer, SSE);
    let (app_there, other) = app(&there, there.layer(), SSE);
    let mut first = Client::open(&app_here, request("/")).await;
    feed.send("data: 1\n\n");
    first.until("data: 1").await;
    let cursor = first.cursor();
    drop(first);
    let mut second = Client::open(&app_there, with_cursor("/", &cursor)).await;
    let remote = tokio::spawn(async move {
        second.until("data: 3").await;
        let cancel = second.id();
        second.rest().await;
        (second, cancel)
    });
    for n in 2..4 {
        for _ in 0..60 {
            advance(Duration::from_secs(1)).await;
            yield_now().await;
        }
        assert!(!feed.is_dropped(), "it has a reader on the other replica");
        feed.send(format!("data: {n}\n\n"));
    }
    for _ in 0..20 {
        yield_now().await;
    }
    let id = cursor.split('.').next().unwrap();
    let mut cancel = request(&format!("/streams/{id}"));
    *cancel.method_mut() = Method::DELETE;
    assert_eq!(status_of(&app_there, cancel).await, StatusCode::NO_CONTENT);
    let (second, _) = remote.await.unwrap();
    assert_eq!(second.failed.unwrap().kind(), FaultKind::Cancelled);
    assert_eq!(Events::of(&second.text).data, ["2", "3"]);
    for _ in 0..4 {
        advance(Duration::from_secs(1)).await;
        yield_now().await;
    }
    assert!(
        feed.is_dropped(),
        "the producer learns that it was taken over"
    );
    assert_eq!(other.called(), 0);
}

/// A log that can be switched off, and that counts as shared.
#[derive(Debug)]
pub(super) struct Faulty {
    log: Memory,
    down: Arc<AtomicBool>,
    /// Set if streams are created and appends are stored, but the answers are lost.
    unanswered: Arc<AtomicBool>,
}

impl Faulty {
    pub(super) fn shared(log: Memory) -> Self {
        Self::new(log, &Arc::default())
    }

    pub(super) fn new(log: Memory, down: &Arc<AtomicBool>) -> Self {
        Self {
            log,
            down: Arc::clone(down),
            unanswered: Arc::default(),
        }
    }

    pub(super) fn switch(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.down)
    }

    pub(super) fn unanswered(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.unanswered)
    }

    fn answered<'a, T: Send + 'a>(&self, done: LogFuture<'a, T>) -> LogFuture<'a, T> {
        let is_answered = !self.unanswered.load(Ordering::Relaxed);
        Box::pin(async move {
            let done = done.await?;
            let answer = is_answered.then_some(done);
            answer.ok_or_else(|| LogErrorKind::Unavailable.into())
        })
    }

    fn check<'a, T: 'a>(&self, done: LogFuture<'a, T>) -> LogFuture<'a, T> {
        match self.down.load(Ordering::Relaxed) {
            true => Box::pin(async { Err(LogErrorKind::Unavailable.into()) }),
            false => done,
        }
    }
}

impl StreamLog for Faulty {
    fn create<'a>(&'a self, id: &'a StreamId, stream: NewStream) -> LogFuture<'a, Created> {
        self.check(self.answered(self.log.create(id, stream)))
    }
    fn append<'a>(
        &'a self,
        id: &'a StreamId,
        epoch: Epoch,
        entry: &'a Entry,
        overflow: Overflow,
    ) -> LogFuture<'a, ()> {
        self.check(self.answered(self.log.append(id, epoch, entry, overflow)))
    }
    fn renew<'a>(&'a self, id: &'a StreamId, epoch: Epoch) -> LogFuture<'a, ()> {
        self.check(self.log.renew(id, epoch))
    }
    fn take_over<'a>(&'a self, id: &'a StreamId, takeover: Takeover) -> LogFuture<'a, Claimed> {
        // So that others look at the stream between a caller's look and its takeover.
        let taken = async move {
            yield_now().await;
            self.log.take_over(id, takeover).await
        };
        self.check(Box::pin(taken))
    }
    fn read(&self, id: &StreamId, after: u64) -> LogReader {
        self.log.read(id, after)
    }
    fn status<'a>(&'a self, id: &'a StreamId) -> LogFuture<'a, Status> {
        self.check(self.log.status(id))
    }
    fn attend<'a>(&'a self, id: &'a StreamId, lasting: Duration) -> LogFuture<'a, ()> {
        self.check(self.log.attend(id, lasting))
    }
    fn find<'a>(&'a self, key: &'a [u8]) -> LogFuture<'a, Option<StreamId>> {
        self.check(self.log.find(key))
    }
    fn delete<'a>(&'a self, id: &'a StreamId) -> LogFuture<'a, bool> {
        self.check(self.log.delete(id))
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_whose_answer_is_lost_does_not_conflict_with_what_came_meanwhile() {
    let log = Memory::new();
    let faulty = Faulty::shared(log.clone());
    let unanswered = faulty.unanswered();
    let resume = resume(faulty);
    let (app, feed) = app(&resume, resume.layer(), SSE);
    let mut first = Client::open(&app, request("/")).await;
    unanswered.store(true, Ordering::Relaxed);
    feed.send("data: 1\n\n");
    first.until("data: 1").await;
    feed.send("data: 2\n\n");
    feed.end();
    first.rest().await;
    advance(Duration::from_secs(2)).await;
    unanswered.store(false, Ordering::Relaxed);
    let id = resume
        .shared
        .issuer
        .read(&first.id(), Some("alice"))
        .unwrap();
    let stored = async {
        while log.status(&id).await.unwrap().end.is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), stored)
        .await
        .unwrap();
    assert_eq!(log.status(&id).await.unwrap().end_offset(), Some(3));
    assert_eq!(resume.stats().broken, 0);
}

#[tokio::test(start_paused = true)]
async fn live_streams_go_on_while_the_log_is_down_and_are_stored_when_it_is_back() {
    let log = Memory::new();
    let down = Arc::new(AtomicBool::new(false));
    let resume = resume(Faulty::new(log.clone(), &down));
    let (app, feed) = app(&resume, resume.layer(), SSE);
    let mut first = Client::open(&app, request("/")).await;
    feed.send("data: 1\n\n");
    first.until("data: 1").await;
    for _ in 0..20 {
        yield_now().await;
    }
    down.store(true, Ordering::Relaxed);
    feed.send("data: 2\n\n");
    first.until("data: 2").await;
    let cursor = first.cursor();
    advance(Duration::from_secs(20)).await;
    feed.send("data: 3\n\n");
    first.until("data: 3").await;
    // A stream that begins now cannot be resumed; and a stranger to this process's own streams is told to come back.
    let plain = send(&app, request("/")).await;
    assert!(!plain.headers().contains_key("stream-id"));
    let elsewhere = StreamId::random();
    let public = resume.shared.issuer.issue(&elsewhere, Some("alice"));
    let refused = send(&app, with_cursor("/", &format!("{public}.1.1"))).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "2");
    down.store(false, Ordering::Relaxed);
    advance(Duration::from_secs(2)).await;
    feed.end();
    first.rest().await;
    assert_eq!(first.failed, None);
    for _ in 0..20 {
        yield_now().await;
    }
    let mut again = Client::open(&app, with_cursor("/", &cursor)).await;
    again.rest().await;
    assert_eq!(Events::of(&again.text).data, ["3"]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_the_stream_is_not_taken_for_one_that_has_it() {
    let log = Memory::new();
    let resume = resume(log.clone());
    let (app, feed) = app(&resume, resume.layer(), SSE);
    let mut first = Client::open(&app, request("/")).await;
    feed.send("data: 1\n\n");
    first.until("data: 1").await;
    let (id, cursor) = (first.id(), first.cursor());
    let key = resume.shared.issuer.read(&id, Some("alice")).unwrap();
    assert!(log.delete(&key).await.unwrap());
    feed.send("data: 2\n\n");
    first.until("data: 2").await;
    for _ in 0..20 {
        yield_now().await;
    }
    assert_eq!(resume.stats().broken, 1);
    feed.end();
    first.rest().await;
    assert_eq!(first.failed, None, "the live stream goes on");
    for _ in 0..20 {
        yield_now().await;
    }
    let late = status_of(&app, with_cursor("/", &cursor)).await;
    assert_eq!(late, StatusCode::GONE);
    let gone: Result<Status, LogError> = log.status(&key).await;
    assert_eq!(gone.unwrap_err().kind(), LogErrorKind::NotFound);
}
