//! Deadlines that move while they are waited for.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::settings::FOR_EVER;

/// Milliseconds since a connection began. They fit an atomic, which an instant does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn began(self) -> Instant {
        self.0
    }

    #[inline]
    pub(crate) fn now(self) -> u64 {
        let elapsed = self.0.elapsed();
        elapsed.as_secs() * 1000 + u64::from(elapsed.subsec_millis())
    }

    fn instant(self, millis_after: u64) -> Instant {
        self.0 + Duration::from_millis(millis_after.min(2 * millis(FOR_EVER)))
    }
}

/// A limit in milliseconds, rounded up.
pub(crate) fn millis(limit: Duration) -> u64 {
    let limit = limit.min(FOR_EVER);
    u64::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Something that has to happen in time.
pub(crate) trait Deadline {
    /// What did not happen.
    type Late;

    fn clock(&self) -> Clock;

    /// By the clock; `None` if there is no deadline now.
    fn deadline(&self) -> Option<u64>;

    /// Without a deadline now: not later than any deadline that begins from now on.
    fn look_again(&self) -> u64 {
        u64::MAX
    }

    /// Returns what did not happen, if a deadline has passed.
    fn late(&self) -> Option<Self::Late>;
}

/// Completes when a [`Deadline`] has passed.
///
/// The timer is reset only when it fires or would fire too late, so a deadline that moves forward costs nothing.
#[derive(Debug)]
pub(crate) struct Alarm<D> {
    of: Arc<D>,
    /// By the clock.
    fires: u64,
    sleep: Pin<Box<Sleep>>,
}

impl<D: Deadline> Alarm<D> {
    pub(crate) fn new(of: Arc<D>) -> Self {
        let fires = of.deadline().unwrap_or_else(|| of.look_again());
        Self {
            sleep: Box::pin(sleep_until(of.clock().instant(fires))),
            fires,
            of,
        }
    }

    pub(crate) fn of(&self) -> &Arc<D> {
        &self.of
    }

    /// Whether it has to be polled although its timer has not fired, because the deadline is earlier.
    #[inline]
    pub(crate) fn fires_too_late(&self) -> bool {
        let deadline = self.of.deadline();
        deadline.is_some_and(|deadline| deadline < self.fires)
    }

    fn set(&mut self, fires: u64) {
        self.fires = fires;
        self.sleep.as_mut().reset(self.of.clock().instant(fires));
    }
}

impl<D: Deadline> Future for Alarm<D> {
    type Output = D::Late;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<D::Late> {
        let this = &mut *self;
        if let Some(deadline) = this.of.deadline()
            && deadline < this.fires
        {
            this.set(deadline);
        }
        while this.sleep.as_mut().poll(cx).is_ready() {
            if let Some(late) = this.of.late() {
                return Poll::Ready(late);
            }
            let next = this.of.deadline();
            this.set(next.unwrap_or_else(|| this.of.look_again()));
        }
        Poll::Pending
    }
}
