use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tower_stream_body::BoxError;

use crate::{
    ResponseBody,
    case::Case,
    panic::{catch, drop_caught},
};

pin_project! {
    /// The future of [`ErrorWriter`](crate::ErrorWriter).
    ///
    /// A panic of the inner future, in a poll or in its drop, ends here. The inner future is dropped as soon as it is
    /// done.
    pub struct ResponseFuture<F> {
        // `None` once it is done
        #[pin]
        inner: Option<F>,
        // `None`: off, or done
        case: Option<Case>,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.case.is_some() {
                drop_caught("a handler future", || this.inner.set(None));
            }
        }
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) fn off(inner: F) -> Self {
        Self {
            inner: Some(inner),
            case: None,
        }
    }

    pub(crate) fn new(inner: F, case: Case) -> Self {
        Self {
            inner: Some(inner),
            case: Some(case),
        }
    }

    /// The call itself panicked.
    pub(crate) fn failed(case: Case) -> Self {
        Self {
            inner: None,
            case: Some(case),
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(case) = this.case else {
            let inner = this.inner.as_pin_mut().expect("polled after it was ready");
            return inner.poll(cx).map_ok(|r| r.map(ResponseBody::off));
        };
        let polled = match this.inner.as_mut().as_pin_mut() {
            None => None,
            Some(inner) => match catch(|| inner.poll(cx)) {
                Ok(polled) => Some(ready!(polled)),
                Err(payload) => {
                    case.panicked(payload);
                    None
                }
            },
        };
        drop_caught("a handler future", || this.inner.set(None));
        let case = this.case.take().expect("checked above");
        Poll::Ready(Ok(match polled {
            None => case.head(None).map(|data| ResponseBody::written(data)),
            Some(Ok(response)) => ResponseBody::begin(response, case, cx),
            Some(Err(error)) => return Poll::Ready(Err(error)),
        }))
    }
}

impl<F> std::fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("case", &self.case)
            .finish_non_exhaustive()
    }
}
