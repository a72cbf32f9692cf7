//! Detects that a stream has been idle for long enough.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// The idle time is measured in quarters of the interval, so that a frame neither reads a clock nor resets a timer: a
/// frame only sets a flag, which the timer checks when it fires.
const WHOLE: u8 = 4;

/// Number of quarters without a frame after which the stream is idle. The last frame came at some time in the quarter
/// before them, so the idle time is longer than these quarters and shorter than the interval.
const ENOUGH: u8 = 3;

/// Detects that a stream has been idle for between three quarters of the interval and the whole interval.
#[derive(Debug)]
pub(crate) struct Silence {
    interval: Duration,
    sleep: Pin<Box<Sleep>>,
    /// Duration of the timer in quarters: one while frames pass, all of them after a heartbeat.
    quarters: u8,
    /// Number of quarters without a frame.
    quiet: u8,
    /// The waker to call when the timer fires; `None` until the timer knows it.
    waker: Option<Waker>,
}

impl Silence {
    /// Starts an idle time now.
    pub(crate) fn begin(interval: Duration) -> Self {
        Self {
            interval,
            sleep: Box::pin(tokio::time::sleep(interval)),
            quarters: WHOLE,
            quiet: 0,
            waker: None,
        }
    }

    /// Fast path: returns whether nothing needs to be done in this poll, because the timer runs, wakes this task, and
    /// has the correct duration.
    #[inline(always)]
    pub(crate) fn is_set(&self, passed: bool, cx: &Context<'_>) -> bool {
        let known = self.waker.as_ref();
        known.is_some_and(|waker| waker.will_wake(cx.waker()))
            && !(passed && self.quarters == WHOLE)
            && !self.sleep.is_elapsed()
    }

    /// Returns whether the stream has been idle for long enough; otherwise its task is woken when it may be. `passed`:
    /// a frame has passed since the last check. If the stream must not be written into yet, the next quarter checks
    /// again.
    pub(crate) fn is_over(
        &mut self,
        passed: &mut bool,
        may_write: bool,
        cx: &mut Context<'_>,
    ) -> bool {
        if *passed && self.quarters == WHOLE {
            // The first frame after a heartbeat. Its time is unknown, but it was just now.
            *passed = false;
            self.run(1);
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            let quiet = self.quiet.saturating_add(self.quarters);
            self.quiet = if std::mem::take(passed) { 0 } else { quiet };
            if self.quiet >= ENOUGH && may_write {
                self.run(WHOLE);
                return true;
            }
            // Counted from now: a slow client may have kept the server from polling the body for a long time.
            let quiet = self.quiet;
            self.run(1);
            self.quiet = quiet;
        }
        self.waker = Some(cx.waker().clone());
        false
    }

    fn run(&mut self, quarters: u8) {
        let time = self.interval / u32::from(WHOLE) * u32::from(quarters);
        self.sleep.as_mut().reset(Instant::now() + time);
        self.quarters = quarters;
        self.quiet = 0;
        self.waker = None;
    }
}
