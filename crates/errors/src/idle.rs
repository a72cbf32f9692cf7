//! [`IdleTimeoutLayer`]: fails a body that returns no frame for too long.

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
    Cause, Exchange, FaultKind,
    wrapper::{Begin, Hook, Polled, Source, Stage, StageContext, Wrapped},
};

/// Fails a response body that returns no frame within a duration, with a [`Cause`] of kind `Timeout`.
///
/// Put it inside of [`ErrorWriterLayer`](crate::ErrorWriterLayer), which turns the failure into a last record or a 504.
///
/// The wait starts when the server polls for a frame and the body is pending. A slow *client* does not fail the body:
/// while the server does not poll, the body is not late, and a frame that is ready is returned, however late the poll.
/// If the poll is late and the body is still pending, the wait starts again, once. A body that then has no frame for
/// another `limit` fails, also on a runtime whose polls are always late.
///
/// The layer does not limit the wait for the head; use tower-http's `TimeoutLayer` for this. To limit the duration of
/// the whole body, use tower-http's `DeadlineBody`, whose error the error writer recognizes.
///
/// `size_hint` and `is_end_stream` are those of the inner body.
///
/// # Panics
///
/// Panics if a body has to wait outside of a tokio runtime with its timer enabled.
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
    /// Allows at most `limit` from one frame to the next.
    #[must_use]
    pub const fn new(limit: Duration) -> Self {
        Self { limit: Some(limit) }
    }

    /// A disabled layer of the same type.
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

/// The state of [`IdleTimeoutLayer`] for one request.
pub struct IdleTimeoutStage {
    limit: Duration,
    /// Time of the first poll for the next frame.
    waiting_since: Option<Instant>,
    /// Whether the wait was started again because the client was slow.
    restarted: bool,
    /// Fires at or before the end of the wait. Resetting a timer costs far more than a clock read, so a timer that is
    /// early is reset only when it fires.
    sleep: Option<Pin<Box<Sleep>>>,
    failed: bool,
}

impl Stage for IdleTimeoutStage {
    const RARE: bool = true;

    #[inline(always)]
    fn on_poll(&mut self, _: &mut impl Source, _: &mut StageContext<'_, '_>) -> Option<Polled> {
        self.failed.then_some(Poll::Ready(None))
    }

    /// Runs after the body, because a frame that is ready is not late.
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
        // A heartbeat from a layer further inside does not show that the producer makes progress.
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
                // The server did not poll when the time was up, so the client may be slow, not the body: start the wait
                // again. Only once, because on a busy worker thread every poll is late.
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
        Poll::Ready(Some(Err(cause.into())))
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
