//! Both layers allocate nothing per frame. Only allocations of the test's thread are counted.
#![cfg(not(loom))]
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
use http_body_util::Empty;
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;
use tower_stream_drain::{Drain, Policy};

/// Is pending before every record.
struct Repeat(Bytes, bool);

impl Body for Repeat {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.1 = !self.1;
        match self.1 {
            true => Poll::Pending,
            false => Poll::Ready(Some(Ok(Frame::data(self.0.clone())))),
        }
    }
}

#[test]
fn no_allocation_a_frame() {
    let drain = Drain::builder().build();
    for policy in [Policy::RunToDeadline, Policy::EndEarly] {
        for (content_type, record) in [
            ("text/event-stream", "data: 1\n\n"),
            ("application/x-ndjson", "{\"n\":1}\n"),
            ("application/grpc", "\0\0\0\0\x01a"),
            ("application/octet-stream", "abc"),
        ] {
            let service = service_fn(move |_: Request<Empty<Bytes>>| async move {
                let response = Response::builder().header("content-type", content_type);
                let body = Repeat(Bytes::from_static(record.as_bytes()), false);
                Ok::<_, Infallible>(response.body(body).unwrap())
            });
            let layers = (drain.layer(), drain.farewell().policy(policy));
            let service = layers.layer(service);
            let response = service.oneshot(Request::new(Empty::new()));
            let response = response.now_or_never().unwrap().unwrap();
            let mut body = pin!(response.into_body());
            let mut cx = Context::from_waker(Waker::noop());
            // The first wait registers the stream.
            assert!(body.as_mut().poll_frame(&mut cx).is_pending());
            let allocated = measure(|| {
                for _ in 0..1_000 {
                    let _ = body.as_mut().poll_frame(&mut cx);
                }
            });
            assert_eq!(allocated.count_total, 0, "{content_type} {policy:?}");
        }
    }
}
