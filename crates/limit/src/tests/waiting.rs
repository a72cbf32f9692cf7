//! Requests that wait for a permit.

use std::time::Duration;

use super::*;
use crate::StreamLimitLayer;

fn limit() -> StreamLimitLayer {
    let wait = Duration::from_secs(2);
    StreamLimitLayer::new().streams(1).wait(2, wait)
}

#[tokio::test(start_paused = true)]
async fn it_is_admitted_in_its_turn_and_its_handler_has_not_begun_before() {
    let limit = limit();
    let origin = Origin::default();
    let service = limit.layer(origin.clone());
    let held = send(&service, get("/")).await;
    let mut second = Box::pin(send(&service, get("/")));
    let mut third = Box::pin(send(&service, get("/")));
    assert!(poll(&mut second).is_pending() && poll(&mut third).is_pending());
    assert_eq!((limit.stats().waiting, origin.begun()), (2, 1));
    // The queue is full.
    assert_eq!(send(&service, get("/")).await.status(), 503);
    assert_eq!(limit.stats().waiting, 2);
    drop(held);
    assert!(poll(&mut third).is_pending());
    let second = second.await;
    assert_eq!((second.status(), origin.begun()), (StatusCode::OK, 2));
    assert!(poll(&mut third).is_pending());
    assert_eq!(text(second).await, "ab");
    assert_eq!(text(third.await).await, "ab");
    assert_eq!((limit.stats().waiting, limit.stats().in_use), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn it_is_refused_when_its_time_is_over_and_leaves_the_queue_when_it_is_dropped() {
    let limit = limit();
    let origin = Origin::default();
    let service = limit.layer(origin.clone());
    let held = send(&service, get("/")).await;
    let refused = send(&service, get("/")).await;
    assert_eq!(refused.status(), 503);
    assert!(text(refused).await.contains("\"status\":503"));
    assert_eq!(limit.stats().refused_streams, 1);
    let mut left = Box::pin(send(&service, get("/")));
    assert!(poll(&mut left).is_pending());
    drop(left);
    // Admitted, and dropped before it is polled: the permit is given on.
    let mut left = Box::pin(send(&service, get("/")));
    let mut next = Box::pin(send(&service, get("/")));
    assert!(poll(&mut left).is_pending() && poll(&mut next).is_pending());
    drop(held);
    drop(left);
    assert_eq!(next.await.status(), 200);
    assert_eq!((limit.stats().waiting, limit.stats().in_use), (0, 0));
    assert_eq!(origin.begun(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_over_its_own_limit_waits_in_its_own_queue() {
    let limit = limit().streams(2).streams_per_key(1);
    let service = limit.layer(Origin::default());
    let client = |n: u8| from(&format!("10.0.0.{n}:1"), "/");
    let held = send(&service, client(1)).await;
    let mut second = Box::pin(send(&service, client(1)));
    assert!(poll(&mut second).is_pending());
    assert_eq!(limit.stats().waiting, 0);
    // As many wait as the client may have streams: the next one is refused at once, although the queue is longer.
    let refused = poll(&mut Box::pin(send(&service, client(1))));
    assert!(matches!(refused, Poll::Ready(refused) if refused.status() == 429));
    // It takes no slot of the others.
    let other = send(&service, client(2)).await;
    assert_eq!(other.status(), 200);
    let late = second.await;
    assert_eq!(late.status(), 429);
    // Admitted by its key, it waits for the limit for all.
    let mut second = Box::pin(send(&service, client(1)));
    assert!(poll(&mut second).is_pending());
    let third = {
        drop(held);
        send(&service, client(3)).await
    };
    assert!(poll(&mut second).is_pending());
    assert_eq!(limit.stats().waiting, 1);
    drop(third);
    assert_eq!(second.await.status(), 200);
    drop(other);
    assert_eq!((limit.stats().waiting, limit.stats().in_use), (0, 0));
}
