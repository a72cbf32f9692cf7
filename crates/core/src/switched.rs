//! A layer that may be off.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{BoxError, relay};

pin_project! {
    /// A body as it is, or with what a layer puts around it: one type, whether the layer is on or off.
    ///
    /// Either way every frame, `is_end_stream` and `size_hint` are those of the body that is inside.
    pub struct Switched<B, W> {
        #[pin]
        kind: Kind<B, W>,
    }
}

pin_project! {
    #[project = Projected]
    enum Kind<B, W> {
        Off { #[pin] body: B },
        On { #[pin] body: W },
    }
}

impl<B, W> Switched<B, W> {
    /// The layer is off: the body as it is.
    pub fn off(body: B) -> Self {
        Self {
            kind: Kind::Off { body },
        }
    }

    /// The layer is on: the body that it makes.
    pub fn on(body: W) -> Self {
        Self {
            kind: Kind::On { body },
        }
    }

    /// Whether the layer is on.
    pub fn is_on(&self) -> bool {
        matches!(self.kind, Kind::On { .. })
    }
}

impl<B, W> Body for Switched<B, W>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    W: Body<Data = Bytes, Error = BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            Projected::Off { body } => relay(body.poll_frame(cx)),
            Projected::On { body } => body.poll_frame(cx),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Off { body } => body.is_end_stream(),
            Kind::On { body } => body.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Off { body } => body.size_hint(),
            Kind::On { body } => body.size_hint(),
        }
    }
}

impl<B, W> fmt::Debug for Switched<B, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switched")
            .field("on", &self.is_on())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "mock"))]
mod tests {
    use super::*;
    use crate::mock::{self, MockBody};
    use std::task::Waker;

    #[test]
    fn on_or_off_the_body_inside_is_what_is_seen() {
        type Both = Switched<MockBody, MockBody>;
        let script = || {
            MockBody::new([mock::data("ab"), mock::trailer("x-t", "1")])
                .with_true_size()
                .tells_end()
        };
        for (mut body, on) in [(Both::off(script()), false), (Both::on(script()), true)] {
            assert_eq!(body.is_on(), on);
            assert_eq!(body.size_hint().exact(), Some(2));
            let mut cx = Context::from_waker(Waker::noop());
            let mut next = || Pin::new(&mut body).poll_frame(&mut cx);
            assert!(matches!(next(), Poll::Ready(Some(Ok(frame))) if frame.is_data()));
            assert!(matches!(next(), Poll::Ready(Some(Ok(frame))) if frame.is_trailers()));
            assert!(body.is_end_stream());
            assert_eq!(body.size_hint().exact(), Some(0));
        }
    }
}
