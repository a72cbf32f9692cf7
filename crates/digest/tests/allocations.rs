//! A frame needs no allocation in any layer. Only allocations of the test's thread are counted.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tower::{Layer, Service};
use tower_stream_digest::{DigestLayer, VerifyDigestLayer};

/// Returns `Pending` once, then an endless sequence of frames.
struct Endless {
    begun: bool,
    frame: Bytes,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !std::mem::replace(&mut self.begun, true) {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
    }
}

/// Number of allocations for `frames` frames through a layer.
fn allocations<L, B>(layer: &L, frame: usize, frames: usize) -> u64
where
    L: Layer<Handler>,
    L::Service: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut service = layer.layer(Handler(frame));
    let mut response = std::pin::pin!(service.call(Request::new(())));
    let Poll::Ready(Ok(response)) = response.as_mut().poll(&mut cx) else {
        panic!("the head is not held back")
    };
    let mut body = std::pin::pin!(response.into_body());
    let mut poll = || body.as_mut().poll_frame(&mut cx);
    // Pending, so that no layer polls ahead.
    let _ = poll();
    let allocated = measure(|| {
        for _ in 0..frames {
            assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))));
        }
    });
    allocated.count_total
}

/// Declares a digest, so that both kinds of layer have work.
#[derive(Clone)]
struct Handler(usize);

impl Service<Request<()>> for Handler {
    type Response = Response<Endless>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Endless>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let frame = Bytes::from(vec![7; self.0]);
        // The first clone of a `Bytes` made from a vector allocates its counter; the layer does not cause this.
        drop(frame.clone());
        let body = Endless {
            begun: false,
            frame,
        };
        let head = Response::builder().header("x-content-md5", "00000000000000000000000000000000");
        std::future::ready(Ok(head.body(body).expect("a response")))
    }
}

#[test]
fn frames_do_not_allocate() {
    for frame in [1, 64, 16 * 1024, 1 << 20] {
        let announced = DigestLayer::md5().on_sent(|_| {});
        assert_eq!(
            allocations(&announced, frame, 1000),
            0,
            "announced, {frame} bytes"
        );
        assert_eq!(
            allocations(&VerifyDigestLayer::md5(), frame, 1000),
            0,
            "verified, {frame} bytes"
        );
        assert_eq!(allocations(&DigestLayer::off(), frame, 1000), 0);
    }
    // Segments store 16 bytes each in a vector, which grows from time to time.
    let segmented = DigestLayer::md5().segments(1 << 20);
    assert!(allocations(&segmented, 64 * 1024, 16 * 1000) < 20);
}
