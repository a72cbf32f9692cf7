//! A breaker judges how responses really ended.

use std::time::Duration;

use failsafe::futures::CircuitBreaker;

use super::*;
use crate::{BreakerLayer, BreakerState, KeyBy, StreamLimitLayer};

fn breaker() -> BreakerLayer {
    BreakerLayer::new()
}

async fn run<S, B>(service: &S, path: &str, times: usize)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body<Data = Bytes>,
{
    for _ in 0..times {
        let response = send(service, get(path)).await;
        let _ = response.into_body().collect().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_always_dies_in_mid_stream_opens_it() {
    let breaker = breaker();
    let origin = Origin::default();
    let service = breaker.layer(origin.clone());
    run(&service, "/die", 19).await;
    assert_eq!(breaker.state(), BreakerState::Closed);
    run(&service, "/die", 5).await;
    assert_eq!((breaker.state(), origin.begun()), (BreakerState::Open, 20));
    let refused = send(&service, get("/")).await;
    assert_eq!(refused.status(), 503);
    let wait: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((10..=20).contains(&wait), "{wait}");
    assert!(text(refused).await.contains("\"status\":503"));
    assert_eq!(breaker.stats().refused, 5);
    // A breaker that judges what the service returns sees a success each time.
    let peer = failsafe::Config::new().build();
    for _ in 0..1_000 {
        let response = peer
            .call(origin.clone().oneshot(get("/die")))
            .await
            .unwrap();
        assert!(response.into_body().collect().await.is_err());
    }
    assert!(peer.is_call_permitted());
    let before = origin.begun();
    // It recovers through probes.
    tokio::time::advance(Duration::from_secs(10)).await;
    run(&service, "/", 3).await;
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert_eq!(origin.begun(), before + 3);
}

#[tokio::test]
async fn clients_that_hang_up_do_not_open_it() {
    let breaker = breaker().minimum(1).failure_share(0.0);
    let service = breaker.layer(Origin::default());
    for n in 0..10_000 {
        if n % 2 == 0 {
            let mut left = Box::pin(send(&service, get("/lost")));
            assert!(poll(&mut left).is_pending());
        } else {
            let response = send(&service, get("/hang")).await;
            let frame = response.into_body().frame().await;
            assert!(frame.is_some_and(|frame| frame.is_ok()));
        }
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    run(&service, "/die", 1).await;
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[tokio::test]
async fn what_counts_as_a_failure() {
    for (path, opens) in [
        ("/", false),
        ("/404", false),
        ("/500", true),
        ("/503", true),
        ("/die", true),
        ("/die/404", true),
        ("/upgrade", false),
    ] {
        let breaker = breaker().minimum(1);
        run(&breaker.layer(Origin::default()), path, 1).await;
        let is_open = breaker.state() == BreakerState::Open;
        assert_eq!(is_open, opens, "{path}");
    }
    // A server error counts, although its client left.
    let breaker = breaker().minimum(1);
    drop(send(&breaker.layer(Origin::default()), get("/500")).await);
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[tokio::test]
async fn a_refusal_of_ours_says_nothing_about_the_handler() {
    let breaker = breaker().minimum(1);
    let limit = StreamLimitLayer::new().streams(0);
    let service = breaker.layer(limit.layer(Origin::default()));
    run(&service, "/", 100).await;
    assert_eq!(breaker.state(), BreakerState::Closed);
    assert_eq!(limit.stats().refused_streams, 100);
}

#[tokio::test]
async fn each_key_has_a_circuit() {
    let upstream = KeyBy::header("x-upstream".parse().unwrap());
    let breaker = breaker().minimum(1).key(upstream);
    let origin = Origin::default();
    let service = breaker.layer(origin.clone());
    let of = |upstream: &str, path: &str| {
        Request::get(path)
            .header("x-upstream", upstream)
            .body(())
            .unwrap()
    };
    for upstream in ["a", "b"] {
        let response = send(&service, of(upstream, "/die")).await;
        let _ = response.into_body().collect().await;
        if upstream == "a" {
            assert_eq!(send(&service, of("b", "/")).await.status(), 200);
            assert_eq!(send(&service, of("a", "/")).await.status(), 503);
        }
    }
    assert_eq!((breaker.stats().open, breaker.stats().opened), (2, 2));
    breaker.reset();
    assert_eq!(send(&service, of("a", "/")).await.status(), 200);
    breaker.force_open();
    assert_eq!(breaker.state(), BreakerState::Open);
}
