//! The response future of every layer.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, StatusCode, response::Parts};
use http_body::Body;
use pin_project_lite::pin_project;

use super::{
    Layers, ResponseBody,
    driver::{Driver, NoHead},
};
use crate::BoxError;

pin_project! {
    /// The response future of a [`Wrapped`](super::Wrapped).
    ///
    /// The inner future is dropped when the head leaves, always inside of the `around` of every stage.
    pub struct ResponseFuture<F, B, L: Layers> {
        // `None` once it is done.
        #[pin]
        inner: Option<F>,
        // `None` if no layer follows the request, or the future is done.
        driver: Option<Pin<Box<Driver<L::Chain, B>>>>,
    }

    impl<F, B, L: Layers> PinnedDrop for ResponseFuture<F, B, L> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(driver) = this.driver {
                driver.as_mut().drop_future(|| this.inner.set(None));
            }
        }
    }
}

impl<F, B, L: Layers> ResponseFuture<F, B, L> {
    #[inline]
    pub(super) fn off(inner: Option<F>) -> Self {
        Self {
            inner,
            driver: None,
        }
    }

    #[inline]
    pub(super) fn on(inner: Option<F>, driver: Driver<L::Chain, B>) -> Self {
        Self {
            inner,
            driver: Some(Box::pin(driver)),
        }
    }
}

impl<F, B, L, E> Future for ResponseFuture<F, B, L>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: fmt::Display + 'static,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    L: Layers,
{
    type Output = Result<Response<ResponseBody<B, L>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(driver) = this.driver else {
            let inner = this.inner.as_pin_mut().expect("polled after it was ready");
            return inner
                .poll(cx)
                .map_ok(|response| response.map(ResponseBody::off));
        };
        let head = match ready!(driver.as_mut().poll_head(this.inner.as_mut(), cx)) {
            Ok(head) => head,
            Err(NoHead::Failed(error)) => {
                *this.driver = None;
                return Poll::Ready(Err(error));
            }
            Err(NoHead::Unanswered) => unanswered(),
        };
        let body = match this.driver.take() {
            Some(driver) => ResponseBody::on(driver),
            None => unreachable!("checked above"),
        };
        Poll::Ready(Ok(Response::from_parts(head, body)))
    }
}

/// A stage caught a panic and did not return a head: a bug in its layer.
#[cold]
fn unanswered() -> Parts {
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = StatusCode::INTERNAL_SERVER_ERROR;
    head
}

impl<F, B, L: Layers> fmt::Debug for ResponseFuture<F, B, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("followed", &self.driver.is_some())
            .finish_non_exhaustive()
    }
}
