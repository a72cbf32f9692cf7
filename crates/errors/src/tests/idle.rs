//! The idle timeout.

use tokio::time::{Duration, Instant};
use tower_stream_core::{Cause, FaultKind, StreamEnd, mock, wrapper::ResponseBody};

use super::*;
use crate::IdleTimeoutLayer;

const LIMIT: Duration = Duration::from_secs(8);

async fn limited(
    layer: IdleTimeoutLayer,
    body: MockBody,
) -> ResponseBody<MockBody, IdleTimeoutLayer> {
    let mut body = Some(body);
    let service = service_fn(move |_: Request<()>| {
        let response = Response::new(body.take().unwrap());
        async move { Ok::<_, Infallible>(response) }
    });
    let response = layer.layer(service).oneshot(get()).await.unwrap();
    response.into_body()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn a_body_that_gives_nothing_for_too_long_fails_once() {
    let start = Instant::now();
    let steps = [
        mock::data("a"),
        mock::sleep(seconds(7)),
        mock::data("b"),
        mock::hang(),
    ];
    let mut body = Box::pin(limited(IdleTimeoutLayer::new(LIMIT), MockBody::new(steps)).await);
    assert!(body.frame().await.unwrap().is_ok());
    assert!(body.frame().await.unwrap().is_ok());
    let error = body.frame().await.unwrap().unwrap_err();
    // The second wait began at 7 s and lasted 8 s.
    assert_eq!(start.elapsed(), seconds(15));
    assert_eq!(Cause::of(&*error).kind(), FaultKind::Timeout);
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_asks_late_is_given_what_is_there() {
    let steps = [
        mock::sleep(seconds(1)),
        mock::data("a"),
        mock::sleep(seconds(5)),
        mock::data("b"),
    ];
    let mut body = Box::pin(limited(IdleTimeoutLayer::new(LIMIT), MockBody::new(steps)).await);
    for _ in 0..2 {
        // Polled once, and then not for 60 s.
        assert!(futures_util::poll!(body.frame()).is_pending());
        tokio::time::advance(seconds(60)).await;
        assert!(body.frame().await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_asks_late_restarts_the_wait() {
    let steps = [mock::hang()];
    let mut body = Box::pin(limited(IdleTimeoutLayer::new(LIMIT), MockBody::new(steps)).await);
    assert!(futures_util::poll!(body.frame()).is_pending());
    tokio::time::advance(seconds(60)).await;
    let start = Instant::now();
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(start.elapsed(), LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_wait_restarts_once_however_late_the_polls_come() {
    let steps = [mock::hang()];
    let mut body = Box::pin(limited(IdleTimeoutLayer::new(LIMIT), MockBody::new(steps)).await);
    for _ in 0..2 {
        assert!(futures_util::poll!(body.frame()).is_pending());
        tokio::time::advance(seconds(60)).await;
    }
    let polled = futures_util::poll!(body.frame());
    assert!(polled.is_ready(), "asked three times in two minutes");
}

#[tokio::test(start_paused = true)]
async fn a_frame_makes_the_next_wait_a_new_one() {
    let steps = [
        mock::sleep(seconds(100)),
        mock::data("a"),
        mock::sleep(seconds(100)),
        mock::data("b"),
    ];
    let mut body = Box::pin(limited(IdleTimeoutLayer::new(LIMIT), MockBody::new(steps)).await);
    for _ in 0..2 {
        for _ in 0..2 {
            assert!(futures_util::poll!(body.frame()).is_pending());
            tokio::time::advance(seconds(60)).await;
        }
        assert!(body.frame().await.unwrap().is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn off_and_for_ever_wait() {
    for layer in [
        IdleTimeoutLayer::off(),
        IdleTimeoutLayer::new(Duration::MAX),
    ] {
        let steps = [mock::sleep(seconds(1_000_000)), mock::data("a")];
        let mut body = Box::pin(limited(layer, MockBody::new(steps)).await);
        assert!(body.frame().await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn size_and_end_are_those_of_the_body() {
    let steps = MockBody::new([mock::data("abc")])
        .with_true_size()
        .tells_end();
    let mut body = Box::pin(limited(IdleTimeoutLayer::new(LIMIT), steps).await);
    assert_eq!(
        (body.size_hint().exact(), body.is_end_stream()),
        (Some(3), false)
    );
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(
        (body.size_hint().exact(), body.is_end_stream()),
        (Some(0), true)
    );
}

#[tokio::test(start_paused = true)]
async fn alone_it_says_why_too() {
    let service = IdleTimeoutLayer::new(LIMIT).layer(once(answer(SSE, [mock::hang()])));
    let mut request = get();
    let fault = tower_stream_core::Exchange::of(request.extensions_mut());
    let seen = read(service.oneshot(request).await.unwrap()).await;
    assert!(seen.error.is_some());
    assert_eq!(fault.cause().unwrap().kind(), FaultKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn inside_the_error_writer_it_is_a_504_or_a_last_record() {
    for (steps, status) in [
        (vec![mock::hang()], 200),
        (vec![mock::data("{}\n"), mock::hang()], 200),
    ] {
        let response = answer(LINES, steps);
        let service = once(response);
        let layers = (ErrorWriterLayer::new(), IdleTimeoutLayer::new(LIMIT));
        let mut request = get();
        let fault = tower_stream_core::Exchange::of(request.extensions_mut());
        let seen = read(layers.layer(service).oneshot(request).await.unwrap()).await;
        assert_eq!(seen.status, status);
        assert_eq!(
            seen.frames.last().unwrap(),
            &format!("{}\n", told("timeout", 504))
        );
        assert_eq!(fault.cause().unwrap().message(), "no frame for 8s");
        let end = StreamEnd::Failed(fault.cause().unwrap().clone());
        assert_eq!(end.error_type(), Some("timeout"));
    }
}
