//! A scope is entered for every poll and for the drop, and left after each.

use std::{
    cell::Cell,
    pin::pin,
    task::{Context, Poll, Waker},
};

use http_body::Body;
use tower_stream_core::{
    Scope, Scoped,
    mock::{self, MockBody},
};

thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });

struct Deep;
struct Left;

impl Scope for Deep {
    type Entered<'a> = Left;
    fn enter(&mut self) -> Left {
        DEPTH.set(DEPTH.get() + 1);
        Left
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Records the depth at which it was dropped.
struct Dropped<'a>(&'a Cell<u32>);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.0.set(DEPTH.get());
    }
}

#[test]
fn a_future_is_polled_and_dropped_inside() {
    let at_drop = Cell::new(0);
    {
        let held = Dropped(&at_drop);
        let future = async move {
            let _held = held;
            assert_eq!(DEPTH.get(), 1);
            std::future::pending::<()>().await;
        };
        let mut future = pin!(Scoped::new(future, Deep));
        let waker = Waker::noop();
        assert!(
            future
                .as_mut()
                .poll(&mut Context::from_waker(waker))
                .is_pending()
        );
        assert_eq!(DEPTH.get(), 0);
    }
    assert_eq!(at_drop.get(), 1);
    assert_eq!(DEPTH.get(), 0);
}

#[test]
fn a_body_passes_frames_and_hints() {
    let body = MockBody::new([mock::data("ab")])
        .with_true_size()
        .tells_end();
    let mut body = pin!(Scoped::new(body, Deep));
    assert_eq!(body.size_hint().exact(), Some(2));
    assert!(!body.is_end_stream());
    let polled = body
        .as_mut()
        .poll_frame(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Some(Ok(_)))));
    assert!(body.is_end_stream());
    assert_eq!(DEPTH.get(), 0);
}
