//! [`IdleTimeoutLayer`]: a body that gives nothing for too long fails.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_core::{BoxError, Cause, Fault, FaultKind, StreamError, relay};

/// Fails a response body that gives no next frame within a duration, with a [`StreamError`] of kind `Timeout`.
///
/// Put it inside of [`ErrorWriterLayer`](crate::ErrorWriterLayer), which turns the failure into a last record or a 504.
///
/// The wait begins when the server asks for a frame and the body has none. A slow *reader* is not the body's fault: as
/// long as the server asks for nothing, nothing is late, and a frame that is there is given however late it was asked
/// for. If it is asked late and has none still, the wait begins anew, once: a body that then has nothing for another
/// `limit` fails, also on a runtime whose polls always come late. The wait for the head is not bounded; that is tower-http's `TimeoutLayer`. For a limit to the whole body use
/// tower-http's `DeadlineBody`, whose error is understood here.
///
/// `size_hint` and `is_end_stream` are those of the inner body.
///
/// # Panics
///
/// A body that has to wait needs a tokio runtime with its timer enabled.
///
/// ```
/// use std::time::Duration;
/// use tower::ServiceBuilder;
/// use tower_stream_errors::{ErrorWriterLayer, IdleTimeoutLayer};
///
/// let layers = ServiceBuilder::new()
///     .layer(ErrorWriterLayer::new())
///     .layer(IdleTimeoutLayer::new(Duration::from_secs(30)));
/// # let _ = layers;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct IdleTimeoutLayer {
    limit: Option<Duration>,
}

impl IdleTimeoutLayer {
    /// At most `limit` from one frame to the next.
    #[must_use]
    pub const fn new(limit: Duration) -> Self {
        Self { limit: Some(limit) }
    }

    /// A layer of the same type that lets bodies take their time.
    #[must_use]
    pub const fn off() -> Self {
        Self { limit: None }
    }
}

impl<S> Layer<S> for IdleTimeoutLayer {
    type Service = IdleTimeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        IdleTimeout {
            inner,
            limit: self.limit,
        }
    }
}

/// The service made by [`IdleTimeoutLayer`].
#[derive(Clone, Copy, Debug)]
pub struct IdleTimeout<S> {
    inner: S,
    limit: Option<Duration>,
}

impl<S, ReqBody, B> Service<Request<ReqBody>> for IdleTimeout<S>
where
    S: Service<Request<ReqBody>, Response = Response<B>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<IdleTimeoutBody<B>>;
    type Error = S::Error;
    type Future = IdleTimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let limit = self
            .limit
            .map(|limit| (limit, Fault::of(request.extensions_mut())));
        IdleTimeoutFuture {
            inner: self.inner.call(request),
            limit,
        }
    }
}

pin_project! {
    /// The future of [`IdleTimeout`].
    #[derive(Debug)]
    pub struct IdleTimeoutFuture<F> {
        #[pin]
        inner: F,
        limit: Option<(Duration, Fault)>,
    }
}

impl<F, B, E> Future for IdleTimeoutFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<IdleTimeoutBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (mut parts, inner) = ready!(this.inner.poll(cx))?.into_parts();
        let mut limit = this.limit.take();
        if let Some((_, fault)) = &mut limit {
            fault.join(&mut parts.extensions);
        }
        let body = IdleTimeoutBody {
            inner,
            limit,
            waiting_since: None,
            restarted: false,
            sleep: None,
            failed: false,
        };
        Poll::Ready(Ok(Response::from_parts(parts, body)))
    }
}

pin_project! {
    /// The body of [`IdleTimeout`]'s responses.
    pub struct IdleTimeoutBody<B> {
        #[pin]
        inner: B,
        limit: Option<(Duration, Fault)>,
        // when the body was asked for a frame that it still owes
        waiting_since: Option<Instant>,
        // the reader was behind in this wait, so it was begun anew
        restarted: bool,
        // Goes off at or before the end of the wait. Moving a timer costs far more than a clock read, so one that is
        // early is only moved when it goes off.
        #[pin]
        sleep: Option<Sleep>,
        failed: bool,
    }
}

impl<B> Body for IdleTimeoutBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if *this.failed {
            return Poll::Ready(None);
        }
        // the body first: a frame that is there is not late
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            *this.waiting_since = None;
            *this.restarted = false;
            return relay(Poll::Ready(frame));
        }
        let Some((limit, fault)) = this.limit else {
            return Poll::Pending;
        };
        let mut since = *this.waiting_since.get_or_insert_with(Instant::now);
        loop {
            let Some(deadline) = since.checked_add(*limit) else {
                return Poll::Pending;
            };
            match this.sleep.as_mut().as_pin_mut() {
                None => {
                    let sleep = tokio::time::sleep_until(deadline);
                    this.sleep.set(Some(sleep));
                }
                Some(mut sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    let now = Instant::now();
                    if now < deadline {
                        sleep.reset(deadline);
                    } else if now - deadline > *limit / 4 && !*this.restarted {
                        // Nobody polled when the time was up, so the reader may be behind, not the body: the wait
                        // begins anew. Once only: on a busy worker every poll is late.
                        *this.restarted = true;
                        since = now;
                        *this.waiting_since = Some(now);
                    } else {
                        break;
                    }
                }
            }
        }
        *this.failed = true;
        let message = format!("no frame for {limit:?}");
        let cause = Cause::new(FaultKind::Timeout, message);
        fault.record(cause.clone());
        Poll::Ready(Some(Err(StreamError::from(cause).into())))
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.failed || self.inner.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for IdleTimeoutBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleTimeoutBody")
            .field("waiting_since", &self.waiting_since)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
