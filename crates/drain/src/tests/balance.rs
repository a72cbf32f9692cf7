use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
};

use tower_layer::Layer;
use tower_stream_core::mock;

use super::*;
use crate::DrainToken;

/// Requests that end in every possible way at random, on several threads. For 10^6 requests, run
/// `DRAIN_REQUESTS=1000000 cargo test --release -p tower-stream-drain balance`.
#[test]
fn the_count_balances_after_random_cancels_panics_drops_and_upgrades() {
    const THREADS: usize = 4;
    let total: usize = std::env::var("DRAIN_REQUESTS").map_or(40_000, |count| {
        count.parse().expect("DRAIN_REQUESTS is a number")
    });
    let drain = drain();
    let upgraded = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..total / THREADS {
                    one(&drain, &upgraded);
                }
            });
        }
    });
    assert_eq!(drain.in_flight(), 0);
    let stats = drain.stats();
    assert_eq!(
        stats.served as usize,
        total / THREADS * THREADS,
        "each ended exactly once"
    );
    assert!(upgraded.load(Ordering::Relaxed) > total / 20);
}

/// One request that ends at a random point in a random way.
fn one(drain: &Drain, upgraded: &AtomicUsize) {
    let way = fastrand::u8(..8);
    let app = service(move |request: Request<MockBody>| {
        if way == 0 {
            // Silences the panic messages, because there are many.
            std::panic::resume_unwind(Box::new("in call"));
        }
        let token = (way == 1).then(|| DrainToken::of(request.extensions()).unwrap());
        async move {
            tokio::task::yield_now().await;
            if way == 2 {
                std::panic::resume_unwind(Box::new("in the future"));
            }
            // Outlives the response.
            let token = token.map(|token| std::thread::spawn(move || drop(token)));
            let steps = match way {
                3 => vec![mock::data("a"), mock::panic("in the body")],
                _ => vec![mock::data("a"), mock::pending(), mock::data("b")],
            };
            let mut response = Response::new(MockBody::new(steps));
            if let Some(token) = token {
                response.extensions_mut().insert(std::sync::Arc::new(token));
            }
            response
        }
    });
    let app = drain.layer().layer(drain.farewell().layer(app));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut future = Box::pin(app.oneshot(get("/")));
        let mut response = loop {
            match future.as_mut().poll(&mut cx) {
                Poll::Ready(response) => break response.unwrap(),
                // Cancelled before the head.
                Poll::Pending if way == 4 => return,
                Poll::Pending => {}
            }
        };
        drop(future);
        if let Some(token) = response
            .extensions_mut()
            .remove::<std::sync::Arc<std::thread::JoinHandle<()>>>()
        {
            upgraded.fetch_add(1, Ordering::Relaxed);
            std::sync::Arc::into_inner(token).unwrap().join().unwrap();
        }
        let mut body = response.into_body();
        let polls = if way == 5 { 1 } else { 10 };
        for _ in 0..polls {
            let _ = Pin::new(&mut body).poll_frame(&mut cx);
        }
    }));
}
