//! Panics in odd places.

use std::{
    panic::panic_any,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Frame, SizeHint};
use tower_stream_body::mock::{self, PanicIn};

use super::*;

fn layer() -> ErrorWriterLayer {
    ErrorWriterLayer::new()
}

#[tokio::test]
async fn a_panicked_body_is_dropped_and_not_polled_again() {
    let response = answer(
        SSE,
        [
            mock::data("data: 1\n\n"),
            mock::panic("x"),
            mock::data("never"),
        ],
    );
    let probe = response.body().probe();
    let seen = send(&layer(), get(), response).await;
    assert_eq!(seen.frames.len(), 2);
    assert_eq!((probe.polls(), probe.polled_after_end()), (2, false));
    assert!(probe.is_dropped());
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
    // and dropped unpolled, as when the client left
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

/// Says well what it holds until a frame has been given, then panics when asked.
struct Fickle {
    given: bool,
    place: PanicIn,
}

impl Body for Fickle {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        assert!(!self.given, "polled after a panic");
        self.given = true;
        Poll::Ready(Some(Ok(Frame::data("{}\n".into()))))
    }

    fn is_end_stream(&self) -> bool {
        assert!(
            !(self.given && self.place == PanicIn::IsEndStream),
            "in is_end_stream"
        );
        false
    }

    fn size_hint(&self) -> SizeHint {
        assert!(
            !(self.given && self.place == PanicIn::SizeHint),
            "in size_hint"
        );
        SizeHint::default()
    }
}

async fn fickle(place: PanicIn) -> Seen {
    let service = service_fn(move |_: Request<()>| async move {
        let response = Response::builder().header("content-type", LINES);
        let body = Fickle {
            given: false,
            place,
        };
        Ok::<_, Infallible>(response.body(body).unwrap())
    });
    read(layer().layer(service).oneshot(get()).await.unwrap()).await
}

#[tokio::test]
async fn a_panic_in_is_end_stream_after_a_frame_ends_the_stream() {
    let seen = fickle(PanicIn::IsEndStream).await;
    assert_eq!(seen.frames, ["{}\n", &format!("{}\n", told("panic", 500))]);
}

#[tokio::test]
async fn a_panic_in_size_hint_after_the_first_frame_still_has_a_head() {
    assert_eq!(fickle(PanicIn::SizeHint).await.status, 500);
}
