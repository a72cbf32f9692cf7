//! Which code runs in the span.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tower::{Layer, ServiceExt, service_fn};
use tower_stream_core::mock::MockBody;

use crate::{
    RequestSpanLayer,
    testing::{Traces, get, poll_once, respond},
};

/// Logs when it is polled and when it is dropped.
struct Logs;

impl Body for Logs {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        tracing::info!("poll");
        Poll::Ready(Some(Ok(Frame::data(Bytes::from("a")))))
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        tracing::info!("drop");
    }
}

#[tokio::test]
async fn a_log_line_in_the_poll_and_in_the_drop_has_its_request() {
    let traces = Traces::default();
    let mut body = get(RequestSpanLayer::new().layer(respond(Response::new(Logs))))
        .await
        .into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    // tracing-opentelemetry adds an event in a span to that span.
    let events = traces.request().events.len();
    assert_eq!(events, 2, "one of the poll, one of the drop");
}

#[tokio::test]
async fn a_log_line_of_the_body_has_the_status() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&lines);
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || Lines(Arc::clone(&written)))
        .with_ansi(false)
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let mut body = get(RequestSpanLayer::new().layer(respond(Response::new(Logs))))
        .await
        .into_body();
    body.frame().await.unwrap().unwrap();
    let lines = String::from_utf8(lines.lock().clone()).unwrap();
    assert!(lines.contains("http.response.status_code=200"), "{lines}");
}

struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_handler_is_dropped_in_the_span() {
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            tracing::info!("cancelled");
        }
    }
    let traces = Traces::lean();
    let service = service_fn(|_: Request<()>| async {
        let _guard = Guard;
        std::future::pending::<Result<Response<MockBody>, Infallible>>().await
    });
    let mut future = Box::pin(
        RequestSpanLayer::new()
            .layer(service)
            .oneshot(Request::new(())),
    );
    assert!(poll_once(future.as_mut()).is_pending());
    drop(future);
    assert_eq!(traces.request().events.len(), 1);
}

#[tokio::test]
async fn a_handler_that_has_answered_is_dropped_in_the_span() {
    struct Answer;
    impl Future for Answer {
        type Output = Result<Response<MockBody>, Infallible>;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            Poll::Ready(Ok(Response::new(MockBody::new([]))))
        }
    }
    impl Drop for Answer {
        fn drop(&mut self) {
            tracing::info!("answered");
        }
    }
    let traces = Traces::lean();
    let service = service_fn(|_: Request<()>| Answer);
    drop(get(RequestSpanLayer::new().layer(service)).await);
    assert_eq!(traces.request().events.len(), 1);
}
