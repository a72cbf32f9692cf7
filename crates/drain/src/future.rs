//! The future of [`DrainService`](crate::DrainService).

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use pin_project_lite::pin_project;

use crate::{DrainBody, body::Guard, close::Closing};

pin_project! {
    /// Resolves to the response, whose body goes on counting, or to a refusal.
    pub struct DrainFuture<F> {
        #[pin]
        answer: Answer<F>,
        // after the future inside: the count falls when that is gone
        guard: Option<Guard>,
        closing: Closing,
        connect: bool,
    }
}

pin_project! {
    #[project = AnswerProj]
    enum Answer<F> {
        Inner { #[pin] future: F },
        Refused { response: Option<(Response<Bytes>, bool)> },
    }
}

impl<F> DrainFuture<F> {
    pub(crate) fn counted(future: F, guard: Guard, closing: Closing, connect: bool) -> Self {
        Self {
            answer: Answer::Inner { future },
            guard: Some(guard),
            closing,
            connect,
        }
    }

    pub(crate) fn uncounted(future: F) -> Self {
        Self {
            answer: Answer::Inner { future },
            guard: None,
            closing: Closing::Never,
            connect: false,
        }
    }

    pub(crate) fn refused(response: Response<Bytes>, reset: bool) -> Self {
        Self {
            answer: Answer::Refused {
                response: Some((response, reset)),
            },
            guard: None,
            closing: Closing::Never,
            connect: false,
        }
    }
}

impl<F, B, E> Future for DrainFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<DrainBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.answer.project() {
            AnswerProj::Inner { future } => {
                let mut response = ready!(future.poll(cx))?;
                let mut guard = this.guard.take();
                if let Some(guard) = &mut guard {
                    guard.follow(response.extensions());
                }
                // sampled now, not when the request came: the drain may have started in between
                if guard.as_ref().is_some_and(Guard::is_draining) {
                    this.closing.close(*this.connect, &mut response);
                }
                Poll::Ready(Ok(response.map(|body| DrainBody::new(body, guard))))
            }
            AnswerProj::Refused { response } => match response.take() {
                Some((response, reset)) => {
                    Poll::Ready(Ok(response.map(|text| DrainBody::refusal(text, reset))))
                }
                // polled after it was ready, which no executor does
                None => Poll::Pending,
            },
        }
    }
}

impl<F> fmt::Debug for DrainFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainFuture")
            .field("counted", &self.guard.is_some())
            .finish_non_exhaustive()
    }
}
