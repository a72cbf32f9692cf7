//! [`IdleTimeoutLayer`]: a body that gives nothing for too long fails.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use http::Request;
use tokio::time::{Instant, Sleep};
use tower_layer::Layer;
use tower_stream_core::{
    Cause, Exchange, FaultKind, StreamError,
    wrapper::{Begin, Hook, Polled, Source, Stage, StageContext, Wrapped},
};

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
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, *self)
    }
}

impl Hook for IdleTimeoutLayer {
    type Stage = IdleTimeoutStage;

    fn is_off(&self) -> bool {
        self.limit.is_none()
    }

    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<IdleTimeoutStage> {
        match self.limit {
            Some(limit) => Begin::Follow(IdleTimeoutStage {
                limit,
                waiting_since: None,
                restarted: false,
                sleep: None,
                failed: false,
            }),
            None => Begin::Pass,
        }
    }
}

/// What [`IdleTimeoutLayer`] keeps of one request.
pub struct IdleTimeoutStage {
    limit: Duration,
    /// When the body was asked for a frame that it still owes.
    waiting_since: Option<Instant>,
    /// The reader was behind in this wait, so it was begun anew.
    restarted: bool,
    /// Goes off at or before the end of the wait. Moving a timer costs far more than a clock read, so one that is
    /// early is only moved when it goes off.
    sleep: Option<Pin<Box<Sleep>>>,
    failed: bool,
}

impl Stage for IdleTimeoutStage {
    #[inline(always)]
    fn on_poll(&mut self, _: &mut impl Source, _: &mut StageContext<'_, '_>) -> Option<Polled> {
        self.failed.then_some(Poll::Ready(None))
    }

    /// After the body: a frame that is there is not late.
    #[inline(always)]
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        _: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        if polled.is_pending() {
            *polled = self.wait(cx);
            return;
        }
        // a heartbeat of a layer further in says nothing of the producer
        if cx.is_heartbeat() {
            return;
        }
        self.waiting_since = None;
        self.restarted = false;
    }
}

impl IdleTimeoutStage {
    fn wait(&mut self, cx: &mut StageContext<'_, '_>) -> Polled {
        let mut since = *self.waiting_since.get_or_insert_with(Instant::now);
        loop {
            let Some(deadline) = since.checked_add(self.limit) else {
                return Poll::Pending;
            };
            let Some(sleep) = &mut self.sleep else {
                self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline)));
                continue;
            };
            ready!(sleep.as_mut().poll(cx.task));
            let now = Instant::now();
            if now < deadline {
                sleep.as_mut().reset(deadline);
            } else if now - deadline > self.limit / 4 && !self.restarted {
                // Nobody polled when the time was up, so the reader may be behind, not the body: the wait
                // begins anew. Once only: on a busy worker every poll is late.
                self.restarted = true;
                since = now;
                self.waiting_since = Some(now);
            } else {
                break;
            }
        }
        self.failed = true;
        let message = format!("no frame for {:?}", self.limit);
        let cause = Cause::new(FaultKind::Timeout, message);
        cx.exchange.record(cause.clone());
        Poll::Ready(Some(Err(StreamError::from(cause).into())))
    }
}

impl fmt::Debug for IdleTimeoutStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleTimeoutStage")
            .field("waiting_since", &self.waiting_since)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
