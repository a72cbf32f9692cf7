//! A limit that follows the time to first chunk, on a server with twice the load that it can take.

use std::time::Duration;

use tokio::{sync::Semaphore, time::Instant};

use super::*;
use crate::{Adaptive, StreamLimitLayer};

/// It begins so many responses at a time, each in so long.
const WORKERS: usize = 10;
const WORK: Duration = Duration::from_millis(100);

/// The median and the 99th percentile of the time to first chunk of the streams that are admitted, in the last of 30 s with
/// requests at twice the capacity; and the share of the capacity that was used.
async fn overloaded(limit: StreamLimitLayer) -> (Duration, Duration, f64) {
    let workers = Arc::new(Semaphore::new(WORKERS));
    let handler = tower::service_fn(move |_: Request<()>| {
        let workers = Arc::clone(&workers);
        async move {
            let _worker = workers.acquire().await.unwrap();
            tokio::time::sleep(WORK).await;
            Ok::<_, Infallible>(Response::new(MockBody::new([mock::data("a")])))
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
            let _ = response.into_body().frame().await;
            (late && admitted).then(|| sent.elapsed())
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
    let adaptive = StreamLimitLayer::new().adaptive(Adaptive::between(2, 1_000));
    let (median, late, used) = overloaded(adaptive).await;
    assert!(
        median <= 2 * WORK && late <= 2 * WORK,
        "{median:?} {late:?}"
    );
    assert!(used > 0.85, "{used}");
    // Beside it: a fixed limit that is too high, and none.
    let fixed = StreamLimitLayer::new().streams(100);
    let (median, _, _) = overloaded(fixed).await;
    assert!(median > 5 * WORK, "{median:?}");
    let (median, _, _) = overloaded(StreamLimitLayer::off()).await;
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
    assert_eq!(limit.stats().limit, 20);
}
