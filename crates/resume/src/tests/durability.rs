//! Readers that get only what is stored.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use http::StatusCode;
use tokio::time::{sleep, timeout};
use tower_stream_core::FaultKind;

use super::{
    lost::Faulty,
    support::{Client, Events, Feed, SSE, app, request, resume, send, with_cursor},
};
use crate::{Durability, Memory, Resume, Status, StreamLog};

const SECOND: Duration = Duration::from_secs(1);

struct Setup {
    log: Memory,
    down: Arc<AtomicBool>,
    resume: Resume,
    app: Router,
    feed: Feed,
}

impl Setup {
    fn new() -> Self {
        let (log, down) = (Memory::new(), Arc::default());
        let resume = resume(Faulty::new(log.clone(), &down));
        let layer = resume.layer().durability(Durability::Stored);
        let (app, feed) = app(&resume, layer, SSE);
        Self {
            log,
            down,
            resume,
            app,
            feed,
        }
    }

    fn is_down(&self, is_down: bool) {
        self.down.store(is_down, Ordering::Relaxed);
    }

    async fn status(&self, client: &Client) -> Status {
        let id = self.resume.shared.issuer.read(&client.id(), Some("alice"));
        self.log.status(&id.unwrap()).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_gets_a_record_and_the_end_only_when_they_are_stored() {
    let setup = Setup::new();
    let mut client = Client::open(&setup.app, request("/")).await;
    setup.feed.send("data: 1\n\n");
    client.until("data: 1").await;
    setup.is_down(true);
    setup.feed.send("data: 2\n\n");
    for _ in 0..3 {
        sleep(20 * SECOND).await;
        assert!(client.is_waiting());
        assert_eq!(setup.status(&client).await.next, 2);
    }
    setup.is_down(false);
    client.until("data: 2").await;
    assert_eq!(setup.status(&client).await.next, 3);
    setup.is_down(true);
    setup.feed.end();
    sleep(5 * SECOND).await;
    assert!(client.is_waiting(), "the end is not stored");
    setup.is_down(false);
    client.rest().await;
    assert_eq!(client.failed, None);
    assert_eq!(setup.status(&client).await.end_offset(), Some(3));
    assert_eq!(Events::of(&client.text).data, ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_producer_waits_for_a_log_that_is_down_and_nothing_is_lost() {
    let setup = Setup::new();
    let mut client = Client::open(&setup.app, request("/")).await;
    setup.is_down(true);
    for n in 0..2_500 {
        setup.feed.send(format!("data: {n}\n\n"));
    }
    sleep(10 * SECOND).await;
    let stats = setup.resume.stats();
    assert!(stats.held >= 1_024 && stats.held < 1_200, "{stats:?}");
    setup.is_down(false);
    client.until("data: 2499\n").await;
    assert_eq!(Events::of(&client.text).data.len(), 2_500);
    assert_eq!(setup.resume.stats().broken, 0);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_will_not_store_the_rest_fails_the_stream() {
    // The log has lost the stream; and it is down for so long that the end is given up.
    for is_lost in [true, false] {
        let setup = Setup::new();
        let mut client = Client::open(&setup.app, request("/")).await;
        setup.feed.send("data: 1\n\n");
        client.until("data: 1").await;
        match is_lost {
            true => {
                let id = setup.resume.shared.issuer.read(&client.id(), Some("alice"));
                assert!(setup.log.delete(&id.unwrap()).await.unwrap());
                setup.feed.send("data: 2\n\n");
            }
            false => {
                setup.is_down(true);
                setup.feed.send("data: 2\n\n");
                setup.feed.end();
            }
        }
        let rest = timeout(60 * SECOND, client.rest()).await;
        rest.expect("the stream fails");
        assert_eq!(Events::of(&client.text).data, ["1"], "lost: {is_lost}");
        assert_eq!(client.failed.unwrap().kind(), FaultKind::Io);
        sleep(SECOND).await;
        assert_eq!(setup.resume.stats().broken, 1);
        assert_eq!(setup.resume.stats().producers, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_log_does_not_create_is_refused() {
    let setup = Setup::new();
    setup.is_down(true);
    let refused = send(&setup.app, request("/")).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "2");
    assert!(setup.feed.is_dropped());
}

#[tokio::test(start_paused = true)]
async fn readers_of_one_stream_wait_alike() {
    let setup = Setup::new();
    let mut first = Client::open(&setup.app, request("/")).await;
    setup.feed.send("data: 1\n\n");
    first.until("data: 1").await;
    let mut second = Client::open(&setup.app, with_cursor("/", &first.cursor())).await;
    setup.is_down(true);
    setup.feed.send("data: 2\n\n");
    sleep(SECOND).await;
    assert!(first.is_waiting() && second.is_waiting());
    setup.is_down(false);
    first.until("data: 2").await;
    second.until("data: 2").await;
}
