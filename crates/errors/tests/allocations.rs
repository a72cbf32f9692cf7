//! The healthy path allocates nothing a frame. Only what the thread of the test allocates counts.
#![allow(missing_docs)]

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Body, Frame};
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;
use tower_stream_errors::{ErrorWriterLayer, IdleTimeoutLayer};

struct Repeat(Bytes);

impl Body for Repeat {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(self.0.clone()))))
    }
}

#[test]
fn no_allocation_a_frame() {
    for (content_type, record) in [
        ("text/event-stream", "data: 1\n\n"),
        ("application/x-ndjson", "{\"n\":1}\n"),
        ("application/grpc", "\0\0\0\0\x01a"),
        ("application/grpc-web", "\0\0\0\0\x01a"),
        ("application/octet-stream", "abc"),
    ] {
        let service = service_fn(move |_: Request<()>| async move {
            let response = Response::builder().header("content-type", content_type);
            let body = Repeat(Bytes::from_static(record.as_bytes()));
            Ok::<_, Infallible>(response.body(body).unwrap())
        });
        let layers = (ErrorWriterLayer::new(), IdleTimeoutLayer::off());
        let service = layers.layer(service);
        let response = service.oneshot(Request::new(())).now_or_never().unwrap();
        let mut body = pin!(response.unwrap().into_body());
        let mut cx = Context::from_waker(Waker::noop());
        let allocated = measure(|| {
            for _ in 0..1_000 {
                let polled = body.as_mut().poll_frame(&mut cx);
                assert!(matches!(polled, Poll::Ready(Some(Ok(_)))));
                assert!(!body.is_end_stream());
            }
        });
        assert_eq!(allocated.count_total, 0, "{content_type}");
    }
}
