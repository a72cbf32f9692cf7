//! The response body of every layer.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{Layers, driver::Driver};
use crate::{BoxError, relay::relay};

pin_project! {
    /// The response body of a [`Wrapped`](super::Wrapped).
    pub struct ResponseBody<B, L: Layers> {
        #[pin]
        kind: Kind<B, L>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B, L: Layers> {
        /// No layer follows the request.
        Off { #[pin] body: B },
        On { driver: Pin<Box<Driver<L::Chain, B>>> },
    }
}

impl<B, L: Layers> ResponseBody<B, L> {
    #[inline]
    pub(super) fn off(body: B) -> Self {
        Self {
            kind: Kind::Off { body },
        }
    }

    #[inline]
    pub(super) fn on(driver: Pin<Box<Driver<L::Chain, B>>>) -> Self {
        Self {
            kind: Kind::On { driver },
        }
    }
}

impl<B, L> Body for ResponseBody<B, L>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    L: Layers,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProj::On { driver } => driver.as_mut().poll_frame(cx),
            KindProj::Off { body } => relay(body.poll_frame(cx)),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::On { driver } => driver.is_over(),
            Kind::Off { body } => body.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::On { driver } => driver.size_hint(),
            Kind::Off { body } => body.size_hint(),
        }
    }
}

impl<B, L: Layers> fmt::Debug for ResponseBody<B, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("followed", &matches!(self.kind, Kind::On { .. }))
            .finish_non_exhaustive()
    }
}
