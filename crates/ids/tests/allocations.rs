//! Allocations per frame: none if nothing is inserted. Only allocations of the test's thread are counted.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body, Frame};
use tower::{Service, ServiceBuilder, service_fn};
use tower_stream_ids::{RequestIdLayer, SequenceLayer};

const FRAMES: usize = 1000;

struct Frames(VecDeque<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
    }
}

/// Passes the frames of one body through both layers. Returns the number of allocations and of bytes.
fn allocations(content_type: &'static str, chunk: &'static str) -> (u64, usize) {
    let mut service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(SequenceLayer::new())
        .service(service_fn(|_: Request<()>| async {
            let frames = std::iter::repeat_n(Bytes::from_static(chunk.as_bytes()), FRAMES);
            let response = Response::builder().header(header::CONTENT_TYPE, content_type);
            Ok::<_, Infallible>(response.body(Frames(frames.collect())).unwrap())
        }));
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(response)) = pin!(service.call(Request::new(()))).poll(&mut cx) else {
        panic!("the handler is ready");
    };
    let mut body = pin!(response.into_body());
    let mut bytes = 0;
    let allocated = measure(|| {
        while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) {
            bytes += frame.into_data().unwrap().len();
        }
    });
    (allocated.count_total, bytes)
}

#[test]
fn a_frame_that_passes_allocates_nothing_and_a_stamped_one_little() {
    let event = "data: hello\n\n";
    assert_eq!(allocations("text/plain", event), (0, event.len() * FRAMES));
    assert_eq!(allocations("application/jsonl", "{}\n"), (0, 3 * FRAMES));
    assert_eq!(allocations("text/event-stream", ": comment\n\n").0, 0);
    // The buffer, and the reference count of the `Bytes`.
    let (stamped, bytes) = allocations("text/event-stream", event);
    let frames = FRAMES as u64;
    assert!((frames..=2 * frames).contains(&stamped), "{stamped}");
    let ids: usize = (1..=FRAMES).map(|n| format!("id: {n}\n").len()).sum();
    assert_eq!(bytes, event.len() * FRAMES + ids);
}
