//! Each request is counted in exactly one figure.

use tokio::time::sleep;
use tower_layer::Layer;
use tower_stream_core::mock;

use super::*;

/// A body whose end an outer error writer has not returned yet when the drain is over.
#[tokio::test(start_paused = true)]
async fn a_farewell_that_is_held_to_the_end_is_cut_and_nothing_else() {
    let drain = drain();
    let answers = |steps: fn() -> MockBody| {
        let inner = service(move |_| async move { Response::new(steps()) });
        drain.layer().layer(drain.farewell().layer(inner))
    };
    let whole = answers(|| MockBody::new([mock::data("x")]));
    for _ in 0..10 {
        read(call(&whole, get("/")).await.into_body()).await;
    }
    let endless = answers(|| MockBody::new([mock::data("x"), mock::hang()]));
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut body = Box::pin(call(&endless, get("/")).await.into_body());
        held.push(tokio::spawn(async move {
            while body.frame().await.is_some() {}
            sleep(60 * SECOND).await;
        }));
    }
    read_at_deadline(&drain, &endless).await;
    drain.dead().await;
    let stats = drain.stats();
    assert_eq!((stats.served, stats.ended_early, stats.aborted), (10, 1, 5));
    for held in held {
        held.await.unwrap();
    }
    assert_eq!(
        drain.stats(),
        crate::Stats {
            in_flight: 0,
            ..stats
        }
    );
}

async fn read_at_deadline<S, B>(drain: &Drain, app: &S)
where
    S: Service<Request<MockBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error: std::fmt::Display>,
{
    let response = call(app, get("/")).await;
    drain.start();
    let (text, error) = read(response.into_body()).await;
    assert!(text == "x" && error.is_some());
}

/// An outer error writer keeps a stream for 25 ms after its last event, until it is flushed.
#[tokio::test(start_paused = true)]
async fn settle_waits_for_farewells_that_have_not_left() {
    let drain = drain();
    let app = drain
        .layer()
        .layer(drain.farewell().layer(service(|_| async {
            Response::new(MockBody::new([mock::data("x"), mock::hang()]))
        })));
    for n in 0..40 {
        let mut body = Box::pin(call(&app, get("/")).await.into_body());
        tokio::spawn(async move {
            while body.frame().await.is_some() {}
            sleep((25 + 5 * n) * MS).await;
        });
    }
    drain.start();
    drain.dead().await;
    let stats = drain.stats();
    assert_eq!((stats.served, stats.ended_early, stats.aborted), (0, 40, 0));
}

/// A process that gets no CPU for a second is late with everything.
#[tokio::test(start_paused = true)]
async fn a_farewell_that_a_stall_delays_is_not_aborted() {
    let drain = drain();
    let inner = service(|_| async { Response::new(MockBody::new([mock::hang()])) });
    let app = drain.layer().layer(drain.farewell().layer(inner));
    let reader = tokio::spawn(read(call(&app, get("/")).await.into_body()));
    tokio::task::yield_now().await;
    drain.start();
    let waiter = drain.clone();
    let dead = tokio::spawn(async move { waiter.dead().await });
    sleep(4 * SECOND).await;
    tokio::time::advance(2 * SECOND).await;
    assert!(reader.await.unwrap().1.is_some());
    dead.await.unwrap();
    let stats = drain.stats();
    assert_eq!((stats.ended_early, stats.aborted), (1, 0));
}

/// The last event is counted when the stream is over, so a fault that occurs on the way also counts.
#[tokio::test(start_paused = true)]
async fn a_stream_that_failed_before_its_farewell_is_served() {
    use tower_stream_core::{Cause, Exchange, FaultKind};
    let drain = drain();
    let app = drain
        .layer()
        .layer(drain.farewell().layer(service(|_| async {
            Response::new(MockBody::new([mock::data("x"), mock::hang()]))
        })));
    let mut request = get("/");
    let fault = Exchange::of(request.extensions_mut());
    let response = call(&app, request).await;
    fault.record(Cause::new(FaultKind::Timeout, "late"));
    drain.start();
    read(response.into_body()).await;
    drain.dead().await;
    let stats = drain.stats();
    assert_eq!((stats.served, stats.ended_early, stats.aborted), (1, 0, 0));
}
