//! Panics in odd places.

use std::{
    panic::panic_any,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http_body::{Frame, SizeHint};
use tower_stream_core::{
    mock::{self, PanicIn},
    wrapper::ResponseBody,
};

use super::*;

fn layer() -> ErrorWriterLayer {
    ErrorWriterLayer::new()
}

#[tokio::test]
async fn a_panicked_body_is_dropped_before_the_tail_and_not_polled_again() {
    let steps = [
        mock::data("data: 1\n\n"),
        mock::panic("x"),
        mock::data("never"),
    ];
    let response = answer(SSE, steps);
    let probe = response.body().probe();
    let service = layer().layer(once(response));
    let mut body = service.oneshot(get()).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert!(!probe.is_dropped());
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert!(probe.is_dropped());
    assert!(body.frame().await.is_none());
    assert_eq!((probe.polls(), probe.polled_after_end()), (2, false));
}

#[tokio::test]
async fn a_second_panic_in_the_drop_changes_nothing() {
    let response = answer(SSE, [mock::data("data: 1\n\n"), mock::panic("first")])
        .map(|body| body.panics_in(PanicIn::Drop));
    let seen = send(&layer(), get(), response).await;
    assert_eq!(
        seen.frames,
        [
            "data: 1\n\n",
            &format!("event: error\ndata: {}\n\n", told("panic", 500))
        ]
    );
}

#[tokio::test]
async fn a_panic_in_the_drop_after_the_end_leaves_the_response_whole() {
    let response =
        answer(SSE, [mock::data("data: 1\n\n")]).map(|body| body.panics_in(PanicIn::Drop));
    let seen = send(&layer(), get(), response).await;
    assert_eq!(seen.frames, ["data: 1\n\n"]);
    assert!(seen.error.is_none());
}

#[tokio::test]
async fn a_panic_in_the_drop_of_a_body_whose_reader_left_goes_no_further() {
    let response = answer(SSE, [mock::data("data: 1\n\n"), mock::hang()])
        .map(|body| body.panics_in(PanicIn::Drop));
    let service = once(response);
    drop(layer().layer(service).oneshot(get()).await.unwrap());
}

/// A future that panics in its drop.
struct BadDrop;

impl std::future::Future for BadDrop {
    type Output = Result<Response<MockBody>, Infallible>;
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(answer(SSE, [mock::data("data: 1\n\n")])))
    }
}

impl Drop for BadDrop {
    fn drop(&mut self) {
        panic!("in the drop of the future");
    }
}

#[tokio::test]
async fn a_future_that_panics_in_its_drop_has_answered() {
    let service = service_fn(|_: Request<()>| BadDrop);
    let seen = read(layer().layer(service).oneshot(get()).await.unwrap()).await;
    assert_eq!(seen.text(), "data: 1\n\n");
    // The future is also dropped without a poll, as when the client disconnects.
    use tower_service::Service;
    let mut service = layer().layer(service_fn(|_: Request<()>| BadDrop));
    drop(service.call(get()));
}

#[tokio::test]
async fn a_payload_that_is_no_string() {
    let service = service_fn(|_: Request<()>| async {
        if true {
            panic_any(vec![1, 2, 3]);
        }
        Ok::<_, Infallible>(Response::new(MockBody::new([])))
    });
    let seen = read(layer().layer(service).oneshot(get()).await.unwrap()).await;
    assert_eq!(seen.status, 500);
}

/// Gives a frame, then panics in one place; counts what it is asked after that.
struct Fickle {
    given: bool,
    data: &'static str,
    place: PanicIn,
    asked: Arc<AtomicUsize>,
}

impl Fickle {
    fn panic_in(&self, place: PanicIn) {
        if self.given && self.place == place {
            self.asked.fetch_add(1, Ordering::Relaxed);
            panic!("in {place:?}");
        }
    }
}

impl Body for Fickle {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.given {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        self.given = true;
        Poll::Ready(Some(Ok(Frame::data(self.data.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.panic_in(PanicIn::IsEndStream);
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.panic_in(PanicIn::SizeHint);
        SizeHint::default()
    }
}

/// A response with such a body, and how often that was asked.
async fn fickle(
    layer: ErrorWriterLayer,
    data: &'static str,
    place: PanicIn,
) -> (
    Response<ResponseBody<Fickle, ErrorWriterLayer>>,
    Arc<AtomicUsize>,
) {
    let asked = Arc::new(AtomicUsize::new(0));
    let body = Fickle {
        given: false,
        data,
        place,
        asked: Arc::clone(&asked),
    };
    let response = Response::builder().header("content-type", LINES);
    let service = layer.layer(once(response.body(body).unwrap()));
    (service.oneshot(get()).await.unwrap(), asked)
}

#[tokio::test]
async fn a_panic_in_is_end_stream_after_a_frame_takes_the_frame_with_it() {
    let (response, asked) = fickle(layer(), "{}\n", PanicIn::IsEndStream).await;
    assert_eq!(response.status(), 500);
    assert_eq!(asked.load(Ordering::Relaxed), 1);

    let out = layer().first_poll(false);
    let (response, asked) = fickle(out, "{}\n", PanicIn::IsEndStream).await;
    assert!(!response.body().is_end_stream());
    let tail = format!("{}\n", told("panic", 500));
    assert_eq!(read(response).await.frames, [tail]);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_panic_in_size_hint_after_the_first_frame_still_has_a_head() {
    let (response, asked) = fickle(layer(), "{}\n", PanicIn::SizeHint).await;
    assert_eq!(response.status(), 500);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn half_a_record_before_a_panic_in_is_end_stream_is_not_given() {
    let (response, asked) = fickle(layer(), "{", PanicIn::IsEndStream).await;
    assert_eq!(response.status(), 500);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[derive(Debug)]
struct BadDisplay;

impl std::fmt::Display for BadDisplay {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("in Display")
    }
}

impl std::error::Error for BadDisplay {}

/// Cannot even be dropped.
#[derive(Debug)]
struct DropPanics;

impl std::fmt::Display for DropPanics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for DropPanics {}

impl Drop for DropPanics {
    fn drop(&mut self) {
        panic!("in the drop of an error")
    }
}

#[tokio::test]
async fn an_error_that_panics_is_an_error_like_another() {
    for make in [|| mock::error(BadDisplay), || mock::error(DropPanics)] {
        let early = send(&ErrorWriterLayer::new(), get(), answer(SSE, [make()])).await;
        assert_eq!(early.status, 500);
        let steps = [mock::data("data: 1\n\n"), mock::pending(), make()];
        let late = send(&ErrorWriterLayer::new(), get(), answer(SSE, steps)).await;
        assert!(
            late.text().starts_with("data: 1\n\nevent: error\n"),
            "{late:?}"
        );
    }
}
