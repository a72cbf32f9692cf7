//! Readers that a drain sends to another replica, and producers that it stops.

use std::{pin::Pin, sync::Arc, time::Duration};

use http::Request;
use tokio::sync::Notify;
use tower_stream_core::{Cause, Claim, DrainHandle, DrainHold, Exchange, FaultKind};

use super::{
    lost::Faulty,
    support::{Client, Events, Feed, SSE, app, request, resume, with_cursor},
};
use crate::{Memory, StreamLog, WhoLeft};

const SECOND: Duration = Duration::from_secs(1);

/// A drain whose deadline the test sets.
#[derive(Clone, Default)]
pub(super) struct Deadline(Arc<Notify>);

impl Deadline {
    pub(super) fn now(&self) {
        self.0.notify_one();
    }
}

impl DrainHandle for Deadline {
    fn hold(self: Arc<Self>) -> Box<dyn DrainHold> {
        Box::new(Self::clone(&self))
    }
}

impl DrainHold for Deadline {
    fn deadline(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let notify = Arc::clone(&self.0);
        Box::pin(async move { notify.notified().await })
    }
}

/// The request as the layers outside pass it on, and their exchange.
pub(super) fn outside<B>(request: Request<B>, deadline: &Deadline) -> (Request<B>, Exchange) {
    let mut request = request;
    let exchange = Exchange::of(request.extensions_mut());
    exchange.set_drain(Arc::new(deadline.clone()));
    (request, exchange)
}

/// Two replicas, and the handler of the first.
fn replicas(log: &Memory, who_left: WhoLeft) -> (axum::Router, Feed, axum::Router) {
    let shared = || Faulty::shared(log.clone());
    let (here, there) = (resume(shared()), resume(shared()));
    let (app_here, feed) = app(&here, here.layer().who_left(who_left), SSE);
    let (app_there, _) = app(&there, there.layer(), SSE);
    (app_here, feed, app_there)
}

#[tokio::test(start_paused = true)]
async fn readers_that_a_drain_sends_away_go_on_elsewhere_while_the_producer_runs() {
    for who_left in [WhoLeft::Cancel, WhoLeft::Grace(SECOND)] {
        let log = Memory::new();
        let (here, feed, there) = replicas(&log, who_left);
        let deadline = Deadline::default();
        let (opened, exchange) = outside(request("/"), &deadline);
        let mut first = Client::open(&here, opened).await;
        assert!(exchange.is_claimed(Claim::Resumable));
        feed.send("data: 1\n\n");
        first.until("data: 1").await;
        // The farewell: its cause is recorded before the body is dropped.
        let told = Cause::new(FaultKind::Drain, "draining").with_retry_after(3 * SECOND);
        exchange.record(told);
        let cursor = first.cursor();
        drop(first);
        tokio::time::sleep(4 * SECOND).await;
        assert!(!feed.is_dropped(), "{who_left:?}: a reader is to come back");
        let (resumed, exchange) = outside(with_cursor("/", &cursor), &deadline);
        let mut second = Client::open(&there, resumed).await;
        assert!(exchange.is_claimed(Claim::Resumable));
        let reads = tokio::spawn(async move {
            second.until("data: 2").await;
            second.rest().await;
            second
        });
        tokio::time::sleep(20 * SECOND).await;
        feed.send("data: 2\n\n");
        feed.end();
        let second = reads.await.unwrap();
        assert_eq!(Events::of(&second.text).data, ["2"]);
        assert_eq!(second.failed, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_come_back_does_not_keep_the_producer() {
    let (here, feed, _) = replicas(&Memory::new(), WhoLeft::Cancel);
    for (kind, longest) in [(FaultKind::Drain, 9 * SECOND), (FaultKind::Timeout, SECOND)] {
        let (opened, exchange) = outside(request("/"), &Deadline::default());
        let first = Client::open(&here, opened).await;
        exchange.record(Cause::new(kind, "left").with_retry_after(3 * SECOND));
        drop(first);
        tokio::time::sleep(longest).await;
        assert!(feed.is_dropped(), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_deadline_of_a_drain_stops_is_stored_as_lost() {
    let log = Memory::new();
    let (here, feed, there) = replicas(&log, WhoLeft::default());
    let deadline = Deadline::default();
    let (opened, _) = outside(request("/"), &deadline);
    let mut first = Client::open(&here, opened).await;
    feed.send("data: 1\n\n");
    first.until("data: 1").await;
    let cursor = first.cursor();
    deadline.now();
    first.rest().await;
    assert!(feed.is_dropped());
    // Nothing more comes, so no reader is asked to come back.
    for _ in 0..2 {
        let mut again = Client::open(&there, with_cursor("/", &cursor)).await;
        again.rest().await;
        assert_eq!(again.failed.unwrap().kind(), FaultKind::ProducerLost);
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_in_memory_keeps_its_readers_to_the_deadline() {
    let log = Memory::new();
    assert!(!log.is_shared() && !Arc::new(log.clone()).is_shared());
    let resume = resume(log);
    let (app, _) = app(&resume, resume.layer(), SSE);
    let (opened, exchange) = outside(request("/"), &Deadline::default());
    drop(Client::open(&app, opened).await);
    assert!(!exchange.is_claimed(Claim::Resumable));
}
