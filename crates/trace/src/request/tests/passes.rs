//! The layer does not change the response.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tower::Layer;
use tower_stream_core::mock::{self, MockBody};

use crate::{
    RequestSpanLayer,
    testing::{Traces, get, int, read, respond},
};

#[tokio::test]
async fn without_a_subscriber_or_off_it_only_passes_on() {
    let body = || MockBody::new([mock::data("a"), mock::error("x")]);
    let alone = RequestSpanLayer::new().layer(respond(Response::new(body())));
    let mut alone = get(alone).await.into_body();
    assert_eq!(
        alone.frame().await.unwrap().unwrap().into_data().unwrap(),
        "a"
    );
    assert_eq!(alone.frame().await.unwrap().unwrap_err().to_string(), "x");

    let traces = Traces::lean();
    let off = RequestSpanLayer::off().layer(respond(Response::new(body())));
    read(get(off).await.into_body()).await.unwrap_err();
    assert!(traces.spans().is_empty());
}

#[tokio::test]
async fn the_body_passes_unchanged() {
    let _traces = Traces::lean();
    for layer in [RequestSpanLayer::new(), RequestSpanLayer::off()] {
        let script = [mock::data("ab"), mock::trailer("x", "1")];
        let mock = MockBody::new(script).tells_end().with_true_size();
        let mut body = get(layer.layer(respond(Response::new(mock))))
            .await
            .into_body();
        assert_eq!(body.size_hint().exact(), Some(2));
        assert!(!body.is_end_stream());
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "ab"
        );
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert!(body.is_end_stream());
    }
}

/// A body fed by another task, as in handlers with long computations.
#[tokio::test]
async fn a_body_fed_by_a_task_of_its_own_is_followed() {
    struct Channel(tokio::sync::mpsc::Receiver<Bytes>);
    impl Body for Channel {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0
                .poll_recv(cx)
                .map(|data| data.map(|data| Ok(Frame::data(data))))
        }
    }
    let traces = Traces::lean();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        sender.send(Bytes::from("a")).await.unwrap();
        sender.send(Bytes::from("b")).await.unwrap();
    });
    let service = RequestSpanLayer::new().layer(respond(Response::new(Channel(receiver))));
    assert_eq!(read(get(service).await.into_body()).await.unwrap(), "ab");
    assert_eq!(int(&traces.request(), "stream.chunks"), 2);
}
