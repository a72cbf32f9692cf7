use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_stream_core::{BoxError, Observation};

use crate::{ResponseBody, stream::Stream};

pin_project! {
    /// The future of [`StreamMetrics`](crate::StreamMetrics).
    pub struct ResponseFuture<F> {
        // first, so that what is dropped before its head is reported from the outside in
        measured: Option<Measured>,
        #[pin]
        inner: F,
    }
}

struct Measured {
    observation: Observation<Box<Stream>>,
    method: Method,
}

impl<F> ResponseFuture<F> {
    pub(crate) fn unmeasured(inner: F) -> Self {
        Self {
            measured: None,
            inner,
        }
    }

    pub(crate) fn measured(
        inner: F,
        observation: Observation<Box<Stream>>,
        method: Method,
    ) -> Self {
        Self {
            measured: Some(Measured {
                observation,
                method,
            }),
            inner,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: fmt::Display + 'static,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = match this.measured {
            Some(measured) => measured.observation.run(|| this.inner.poll(cx)),
            None => this.inner.poll(cx),
        };
        let Poll::Ready(answer) = polled else {
            return Poll::Pending;
        };
        let Some(mut measured) = this.measured.take() else {
            return Poll::Ready(answer.map(|response| response.map(ResponseBody::off)));
        };
        Poll::Ready(match answer {
            Ok(response) => {
                measured.observation.observer_mut().head(response.status());
                Ok(measured
                    .observation
                    .into_response(&measured.method, response)
                    .map(ResponseBody::on))
            }
            Err(error) => {
                measured.observation.fail_service(&error);
                Err(error)
            }
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("measured", &self.measured.is_some())
            .finish_non_exhaustive()
    }
}
