//! When a stream has been silent for long enough.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// The silence is measured in quarters of the interval, so that no frame has to read a clock or to move a timer: a frame only
/// sets a flag, and the timer looks at the flag when it fires.
const WHOLE: u8 = 4;

/// How many quarters without a frame are enough. The last frame came at some time in the quarter before them, so the silence is
/// longer than this and shorter than the interval.
const ENOUGH: u8 = 3;

/// Tells a stream when it has been silent for between three quarters of the interval and the whole of it.
#[derive(Debug)]
pub(crate) struct Silence {
    interval: Duration,
    sleep: Pin<Box<Sleep>>,
    /// For how many quarters the timer runs: one while frames pass, all of them after a heartbeat.
    quarters: u8,
    /// How many have passed without a frame.
    quiet: u8,
    /// Who is woken when the timer fires; `None` until the timer knows.
    waker: Option<Waker>,
}

impl Silence {
    /// The silence begins now.
    pub(crate) fn begin(interval: Duration) -> Self {
        Self {
            interval,
            sleep: Box::pin(tokio::time::sleep(interval)),
            quarters: WHOLE,
            quiet: 0,
            waker: None,
        }
    }

    /// Whether nothing is to be done in this wait: the timer runs, wakes this task, and measures what it should.
    #[inline(always)]
    pub(crate) fn is_set(&self, passed: bool, cx: &Context<'_>) -> bool {
        let known = self.waker.as_ref();
        known.is_some_and(|waker| waker.will_wake(cx.waker()))
            && !(passed && self.quarters == WHOLE)
            && !self.sleep.is_elapsed()
    }

    /// Whether the stream has been silent for long enough; otherwise its task is woken when it may be. `passed`: a frame has passed
    /// since the last look. When a stream must not be written into yet, the next quarter asks again.
    pub(crate) fn is_over(
        &mut self,
        passed: &mut bool,
        may_write: bool,
        cx: &mut Context<'_>,
    ) -> bool {
        if *passed && self.quarters == WHOLE {
            // the first frame after a heartbeat: when it came is not known, only that it was just now
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
            // from now on: a reader that was behind may have kept the stream from being polled for long
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
