//! Settings of zero and of any size, fields that clients invent, and clocks that jump.

use std::time::Duration;

use super::*;
use crate::{Adaptive, BreakerLayer, BreakerState, KeyBy, Rate, StreamLimitLayer};

const DECADE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

#[tokio::test(start_paused = true)]
async fn settings_of_zero_are_a_limit_that_works() {
    let zero = Duration::ZERO;
    let limit = StreamLimitLayer::new()
        .adaptive(
            Adaptive::between(0, 0)
                .initial(0)
                .tolerance(f64::NAN)
                .window(zero),
        )
        .streams_per_key(1)
        .rate_per_key(Rate::per_second(100))
        .remember(0, zero)
        .wait(0, zero)
        .retry_after(zero);
    let breaker = BreakerLayer::new()
        .minimum(0)
        .probes(0)
        .window(zero)
        .open_for(zero)
        .failure_share(0.0);
    let service = limit.layer(breaker.layer(Origin::default()));
    for n in 0..50 {
        let response = send(&service, from(&format!("10.0.0.{n}:1"), "/")).await;
        assert_eq!(response.status(), 200);
        let refused = send(&service, from("10.0.1.1:1", "/")).await;
        // All clients are one, because no key is remembered.
        assert_eq!(refused.status(), 429);
        let wait: u64 = header(&refused, "retry-after").parse().unwrap();
        assert!((1..=2).contains(&wait), "{wait}");
        assert_eq!(text(response).await, "ab");
        tokio::time::advance(Duration::from_millis(20)).await;
    }
    assert_eq!((limit.stats().adaptive_limit, limit.stats().keys), (1, 0));
    // One failure opens the circuit, for no time at all: the next request is its probe.
    let failed = send(&service, get("/die")).await;
    assert!(failed.into_body().collect().await.is_err());
    assert_eq!(breaker.state(), BreakerState::Open);
    assert_eq!(text(send(&service, get("/")).await).await, "ab");
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn settings_of_any_size_are_a_limit_that_works() {
    for rate in [
        Rate::per_second(u32::MAX).burst(u32::MAX),
        Rate::per_minute(u32::MAX),
        Rate::per_minute(1).burst(u32::MAX),
    ] {
        let limit = StreamLimitLayer::new()
            .streams(usize::MAX)
            .streams_per_key(usize::MAX)
            .rate_per_key(rate)
            .remember(usize::MAX, Duration::MAX)
            .wait(usize::MAX, Duration::MAX)
            .retry_after(Duration::MAX);
        let breaker = BreakerLayer::new()
            .minimum(u32::MAX)
            .probes(u32::MAX)
            .window(Duration::MAX)
            .open_for(Duration::MAX)
            .failure_share(f64::INFINITY);
        let service = limit.layer(breaker.layer(Origin::default()));
        for _ in 0..3 {
            let response = send(&service, get("/")).await;
            assert_eq!(response.status(), 200);
            let fields = header(&response, "ratelimit");
            let left = fields.strip_prefix("\"default\";r=").unwrap();
            let left: u32 = left.split(';').next().unwrap().parse().unwrap();
            // 525,600 are the minutes of a year.
            assert!(left > 525_000, "{fields}");
            assert_eq!(text(response).await, "ab");
        }
        // Down and up again at once, however far.
        for most in [0, usize::MAX] {
            limit.set_streams(most);
        }
        assert_eq!(send(&service, get("/")).await.status(), 200);
        breaker.force_open();
        let refused = send(&service, get("/")).await;
        assert_eq!(refused.status(), 503);
        assert!(header(&refused, "retry-after").parse::<u64>().is_ok());
    }
    let limit = StreamLimitLayer::new()
        .streams(0)
        .retry_after(Duration::MAX);
    let refused = send(&limit.layer(Origin::default()), get("/")).await;
    assert!(header(&refused, "retry-after").parse::<u64>().is_ok());
}

#[tokio::test]
async fn a_client_does_not_choose_its_address() {
    let forged = |peer: &str, value: &str| {
        let mut request = from(peer, "/");
        let value = value.parse().unwrap();
        request.headers_mut().insert("x-forwarded-for", value);
        request
    };
    // Not trusted unless said: each connection is its own address, whatever it claims.
    let limit = StreamLimitLayer::new().streams_per_key(1);
    let service = limit.layer(Origin::default());
    let _open = send(&service, forged("10.0.0.1:1", "1.1.1.1")).await;
    for value in ["1.1.1.2", "", "10.0.0.2", "unknown"] {
        let refused = send(&service, forged("10.0.0.1:2", value)).await;
        assert_eq!(refused.status(), 429, "{value:?}");
    }
    // Its claim does not take the slot of another either.
    let other = send(&service, from("1.1.1.1:1", "/")).await;
    assert_eq!(other.status(), 200);

    // Behind one proxy: what the client wrote stands further left, and a request without the field is the proxy's own.
    let limit = limit.key(KeyBy::forwarded_for(1));
    let service = limit.layer(Origin::default());
    let _open = send(&service, forged("10.0.0.9:1", "1.1.1.1")).await;
    for value in ["9.9.9.9, 1.1.1.1", "1.1.1.1:443", " ,1.1.1.1"] {
        let refused = send(&service, forged("10.0.0.9:2", value)).await;
        assert_eq!(refused.status(), 429, "{value:?}");
    }
    let _open = send(&service, from("10.0.0.9:3", "/")).await;
    for value in ["", ",", "localhost", "1.1.1.1.1", "::ffff:a:b:c:d:e:f:g"] {
        let refused = send(&service, forged("10.0.0.9:4", value)).await;
        assert_eq!(refused.status(), 429, "{value:?}");
    }
}

#[tokio::test]
async fn keys_of_a_megabyte_are_told_apart_and_not_kept() {
    let limit = StreamLimitLayer::new()
        .streams_per_key(1)
        .key(KeyBy::header("x-key".parse().unwrap()));
    let service = limit.layer(Origin::default());
    let with = |last: u8| {
        let mut key = vec![b'a'; 1 << 20];
        key.push(last);
        Request::get("/").header("x-key", key).body(()).unwrap()
    };
    let _open = send(&service, with(b'1')).await;
    assert_eq!(send(&service, with(b'1')).await.status(), 429);
    assert_eq!(send(&service, with(b'2')).await.status(), 200);
    assert_eq!(limit.stats().keys, 2);
}

/// The clock of tokio never goes back. It may stand still, and it may jump: while a virtual machine is paused, for example.
#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_neither_ends_a_stream_nor_locks_a_client_out() {
    let limit = StreamLimitLayer::new()
        .adaptive(Adaptive::between(2, 100))
        .streams_per_key(2)
        .rate_per_key(Rate::per_minute(2));
    let breaker = BreakerLayer::new().minimum(2);
    let service = limit.layer(breaker.layer(Origin::default()));
    let client = || from("10.0.0.1:1", "/");
    for _ in 0..3 {
        let mut open = send(&service, client()).await.into_body();
        assert_eq!(text(send(&service, client()).await).await, "ab");
        assert_eq!(send(&service, client()).await.status(), 429);
        tokio::time::advance(DECADE).await;
        assert_eq!(limit.stats().in_use, 1);
        assert!(limit.stats().adaptive_limit >= 2);
        assert!(open.frame().await.is_some_and(|frame| frame.is_ok()));
        // The circuit: opened before the jump, half open after it, and the failures are forgotten.
        for _ in 0..2 {
            let response = send(&service, get("/die")).await;
            let _ = response.into_body().collect().await;
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        tokio::time::advance(DECADE).await;
        for _ in 0..3 {
            assert_eq!(
                text(send(&service, from("10.0.0.2:1", "/")).await).await,
                "ab"
            );
            tokio::time::advance(DECADE).await;
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        drop(open);
    }
    assert_eq!(limit.stats().in_use, 0);
    assert!(limit.stats().adaptive_limit >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_while_the_clock_jumps_is_refused() {
    let limit = StreamLimitLayer::new()
        .streams(1)
        .wait(1, Duration::from_secs(2));
    let service = limit.layer(Origin::default());
    let held = send(&service, get("/")).await;
    let mut waits = Box::pin(send(&service, get("/")));
    assert!(poll(&mut waits).is_pending());
    tokio::time::advance(Duration::from_secs(24 * 60 * 60)).await;
    assert_eq!(waits.await.status(), 503);
    assert_eq!((limit.stats().in_use, limit.stats().waiting), (1, 0));
    assert_eq!(text(held).await, "ab");
    assert_eq!(text(send(&service, get("/")).await).await, "ab");
}
