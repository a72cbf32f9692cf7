use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tower_stream_core::BoxError;

use crate::{
    ResponseBody,
    body::Watched,
    case::Case,
    panic::{catch, drop_caught},
};

pin_project! {
    /// The future of [`ErrorWriter`](crate::ErrorWriter).
    ///
    /// A panic of the inner future, in a poll or in its drop, ends here. The inner future is dropped as soon as it is
    /// done.
    pub struct ResponseFuture<F, B> {
        // `None` once it is done
        #[pin]
        inner: Option<F>,
        // `None`: off, or done
        watched: Option<Pin<Box<Watched<B>>>>,
    }

    impl<F, B> PinnedDrop for ResponseFuture<F, B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.watched.is_some() {
                drop_caught("a handler future", || this.inner.set(None));
            }
        }
    }
}

impl<F, B> ResponseFuture<F, B> {
    pub(crate) fn off(inner: F) -> Self {
        Self {
            inner: Some(inner),
            watched: None,
        }
    }

    pub(crate) fn new(inner: F, case: Case) -> Self {
        Self {
            inner: Some(inner),
            watched: Some(Watched::new(case)),
        }
    }

    /// The call itself panicked.
    pub(crate) fn failed(case: Case) -> Self {
        Self {
            inner: None,
            watched: Some(Watched::new(case)),
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(watched) = this.watched else {
            let inner = this.inner.as_pin_mut().expect("polled after it was ready");
            return inner.poll(cx).map_ok(|r| r.map(ResponseBody::off));
        };
        let polled = match this.inner.as_mut().as_pin_mut() {
            None => None,
            Some(inner) => match catch(|| inner.poll(cx)) {
                Ok(polled) => Some(ready!(polled)),
                Err(payload) => {
                    watched.watch.case.panicked(payload);
                    None
                }
            },
        };
        drop_caught("a handler future", || this.inner.set(None));
        let watched = this.watched.take().expect("checked above");
        Poll::Ready(Ok(match polled {
            None => watched.watch.case.head(None).map(ResponseBody::written),
            Some(Ok(response)) => ResponseBody::begin(response, watched, cx),
            Some(Err(error)) => return Poll::Ready(Err(error)),
        }))
    }
}

impl<F, B> std::fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("on", &self.watched.is_some())
            .finish_non_exhaustive()
    }
}
