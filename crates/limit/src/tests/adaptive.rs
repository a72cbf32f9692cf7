//! A limit that follows the time to first chunk, on a server with twice the load that it can take.

use std::time::Duration;

use tokio::{sync::Semaphore, time::Instant};
use tower_stream_core::{
    Exchange,
    wrapper::{Begin, Fused, Hook, Piece, Polled, Source, Stage, StageContext, Wrapped},
};

use super::*;
use crate::{Adaptive, StreamLimitLayer};

/// It begins so many responses at a time, each in so long.
const WORKERS: usize = 10;
const WORK: Duration = Duration::from_millis(100);

/// The median and the 99th percentile of the time to first chunk of the streams that are admitted, in the last of 30 s with
/// requests at twice the capacity; and the share of the capacity that was used. The streams go on for so long.
async fn overloaded(limit: StreamLimitLayer, lasts: Duration) -> (Duration, Duration, f64) {
    let workers = Arc::new(Semaphore::new(WORKERS));
    let handler = tower::service_fn(move |_: Request<()>| {
        let workers = Arc::clone(&workers);
        async move {
            let _worker = workers.acquire().await.unwrap();
            tokio::time::sleep(WORK).await;
            let steps = [mock::data("a"), mock::sleep(lasts), mock::data("b")];
            Ok::<_, Infallible>(Response::new(MockBody::new(steps)))
        }
    });
    let service = limit.layer(handler);
    let mut tasks = tokio::task::JoinSet::new();
    let pause = WORK / u32::try_from(WORKERS * 2).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        let service = service.clone();
        let late = begun.elapsed() > Duration::from_secs(20);
        tasks.spawn(async move {
            let sent = Instant::now();
            let response = send(&service, get("/")).await;
            let admitted = response.status() == 200;
            let mut body = response.into_body();
            let _ = body.frame().await;
            let time = sent.elapsed();
            while body.frame().await.is_some() {}
            (late && admitted).then_some(time)
        });
        tokio::time::sleep(pause).await;
    }
    let mut times: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    times.sort_unstable();
    let used = times.len() as f64 * WORK.as_secs_f64() / WORKERS as f64 / 10.0;
    (times[times.len() / 2], times[times.len() * 99 / 100], used)
}

#[tokio::test(start_paused = true)]
async fn at_twice_the_capacity_admitted_streams_begin_within_twice_the_time() {
    let at_once = Duration::ZERO;
    for lasts in [at_once, Duration::from_secs(3)] {
        let adaptive = StreamLimitLayer::new().adaptive(Adaptive::between(2, 1_000));
        let (median, late, used) = overloaded(adaptive.clone(), lasts).await;
        assert!(
            median <= 2 * WORK && late <= 2 * WORK,
            "{median:?} {late:?} {lasts:?}"
        );
        assert!(used > 0.85, "{used} {lasts:?}");
        assert_eq!((adaptive.stats().awaited, adaptive.stats().in_use), (0, 0));
    }
    // Beside it: a fixed limit that is too high, and none.
    let fixed = StreamLimitLayer::new().streams(100);
    let (median, _, _) = overloaded(fixed, at_once).await;
    assert!(median > 5 * WORK, "{median:?}");
    let (median, _, _) = overloaded(StreamLimitLayer::off(), at_once).await;
    assert!(median > 50 * WORK, "{median:?}");
}

#[tokio::test(start_paused = true)]
async fn it_neither_grows_unused_nor_shrinks_by_errors_or_long_streams() {
    let limit = StreamLimitLayer::new().adaptive(Adaptive::between(2, 1_000).window(WORK));
    let service = limit.layer(Origin::default());
    for n in 0..200 {
        let response = send(&service, get(if n % 2 == 0 { "/" } else { "/503" })).await;
        let mut body = response.into_body();
        let _ = body.frame().await;
        // The stream goes on for long.
        tokio::time::advance(WORK * (n % 7)).await;
        let _ = body.frame().await;
    }
    assert_eq!(limit.stats().adaptive_limit, 20);
}

#[tokio::test(start_paused = true)]
async fn it_counts_a_stream_until_its_first_chunk_however_that_ends() {
    let limit = StreamLimitLayer::new()
        .streams(3)
        .adaptive(Adaptive::between(1, 1).initial(1))
        .wait(1, Duration::from_secs(2));
    let origin = Origin::default();
    let service = limit.layer(origin.clone());
    let now = || (limit.stats().awaited, limit.stats().in_use);
    let first = send(&service, get("/hang")).await;
    assert_eq!(now(), (1, 1));
    let mut second = Box::pin(send(&service, get("/hang")));
    assert!(poll(&mut second).is_pending());
    // The queue is full.
    assert_eq!(send(&service, get("/")).await.status(), 503);
    assert_eq!((now(), origin.begun()), ((1, 1), 1));
    let mut first = first.into_body();
    assert!(first.frame().await.is_some());
    // The first stream goes on, and the second may begin.
    let second = second.await;
    assert_eq!(now(), (1, 2));
    drop(second);
    assert_eq!(now(), (0, 1));
    for path in ["/503", "/panic", "/die", "/"] {
        let response = send(&service, get(path)).await;
        let is_error = response.status().is_server_error();
        assert_eq!(now(), (usize::from(!is_error), 2), "{path}");
        drop(response);
        assert_eq!(now(), (0, 1), "{path}");
    }
    let mut lost = Box::pin(send(&service, get("/lost")));
    assert!(poll(&mut lost).is_pending());
    assert_eq!(now(), (1, 2));
    drop(lost);
    assert_eq!(now(), (0, 1));
    // The limit for all holds beside it, and who waits for it is counted once, and not any more after it has left.
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut body = send(&service, get("/hang")).await.into_body();
        assert!(body.frame().await.is_some());
        open.push(body);
    }
    assert_eq!((now(), limit.stats().limit), ((0, 3), 3));
    assert_eq!(send(&service, get("/")).await.status(), 503);
    let mut left = Box::pin(send(&service, get("/")));
    assert!(poll(&mut left).is_pending());
    drop(left);
    assert_eq!((now(), limit.stats().waiting), ((0, 3), 0));
    let mut waits = Box::pin(send(&service, get("/")));
    assert!(poll(&mut waits).is_pending());
    open.clear();
    assert_eq!(text(waits.await).await, "ab");
    assert_eq!(now(), (0, 1));
    assert_eq!(limit.stats().refused_streams, 2);
}

/// Writes a heartbeat before the first chunk.
#[derive(Clone, Debug)]
struct Heartbeat;

impl Hook for Heartbeat {
    type Stage = IsWritten;

    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<IsWritten> {
        Begin::Follow(IsWritten(false))
    }
}

struct IsWritten(bool);

impl Stage for IsWritten {
    fn on_poll(&mut self, _: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        let is_first = !std::mem::replace(&mut self.0, true);
        cx.set_heartbeat(is_first);
        let data = Bytes::from(":\n\n");
        is_first.then(|| Poll::Ready(Some(Ok(Piece::open(data)))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_is_not_the_first_chunk() {
    let limit = StreamLimitLayer::new().adaptive(Adaptive::between(1, 1));
    let layers = Fused::new().layer(limit.clone()).layer(Heartbeat);
    let service = Wrapped::new(Origin::default(), layers);
    let mut body = send(&service, get("/hang")).await.into_body();
    for awaited in [1, 0] {
        assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
        assert_eq!(limit.stats().awaited, awaited);
    }
}
