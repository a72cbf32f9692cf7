//! Whether a client takes what waits for it, and sends what the handler waits for.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tower_stream_core::{Cause, FaultKind};

use crate::{
    alarm::{Clock, Deadline, millis},
    settings::Settings,
};

/// The rate of a reader is measured over this much waiting, in milliseconds. A healthy TCP reader of 7 kB/s can take
/// nothing for 19 s, because the kernel announces the free space of a full receive buffer in large steps.
const RATE_OVER: u64 = 20_000;

/// How long bytes have waited for their reader, and how many it took in the meantime.
///
/// A reader that never lets bytes wait costs one load per write: the clock is read only when bytes begin to wait, and
/// when they have been taken if there is a minimum rate.
///
/// One task writes it. The fields are atomic because different parts of that task share them.
#[derive(Debug)]
pub(crate) struct Pace {
    clock: Clock,
    /// What a client is that is too slow.
    fault: FaultKind,
    /// In milliseconds.
    write_stall: Option<u64>,
    /// In bytes per second.
    min_rate: Option<u64>,
    /// The number of bytes that the reader may have taken in addition to those that are known: one piece if it is only
    /// known when a whole piece was taken.
    unknown: u64,
    /// When the bytes began to wait that wait now, by the clock, plus one. 0 if none wait.
    waiting: AtomicU64,
    /// The part of the current wait that counts for the rate starts here, by the clock.
    counted_from: AtomicU64,
    /// How long bytes have waited before that, since the rate was last measured.
    waited: AtomicU64,
    /// Number of bytes taken since the rate was last measured.
    taken: AtomicU64,
}

impl Pace {
    pub(crate) fn new(clock: Clock, settings: &Settings) -> Self {
        let write_stall = settings.write_stall.map(millis);
        Self::with(
            clock,
            FaultKind::SlowReader,
            write_stall,
            settings.min_rate,
            0,
        )
    }

    fn with(
        clock: Clock,
        fault: FaultKind,
        write_stall: Option<u64>,
        min_rate: Option<u64>,
        unknown: u64,
    ) -> Self {
        Self {
            clock,
            fault,
            write_stall,
            min_rate,
            unknown,
            waiting: AtomicU64::new(0),
            counted_from: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            taken: AtomicU64::new(0),
        }
    }

    /// Creates a pace of the same connection, with the same limits, for bytes that the reader takes in pieces of this
    /// size.
    pub(crate) fn of_pieces(&self, size: usize) -> Self {
        let (stall, rate) = (self.write_stall, self.min_rate);
        Self::with(self.clock, self.fault, stall, rate, size as u64)
    }

    /// Creates a pace of the same connection for a request body: the handler waits, and takes what the client sends. It
    /// has the minimum rate as its only limit.
    pub(crate) fn of_upload(&self) -> Self {
        Self::with(self.clock, FaultKind::SlowUpload, None, self.min_rate, 0)
    }

    /// When the bytes that wait now began to wait; 0 if none wait. The value differs from one wait to the next.
    #[inline]
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    /// Bytes wait for the reader.
    #[inline]
    pub(crate) fn waits(&self) {
        if self.waiting() == 0 {
            let now = self.clock.now();
            self.waiting.store(now.saturating_add(1), Relaxed);
            self.counted_from.store(now, Relaxed);
        }
    }

    /// The reader took this many bytes, so the rest starts to wait only now. Returns whether bytes had waited.
    #[inline]
    pub(crate) fn takes(&self, bytes: usize) -> bool {
        if self.min_rate.is_some() {
            let taken = self.taken.load(Relaxed);
            self.taken
                .store(taken.saturating_add(bytes as u64), Relaxed);
        }
        let waited = self.waiting() != 0;
        if waited {
            self.ends_wait();
        }
        waited
    }

    #[cold]
    fn ends_wait(&self) {
        self.waiting.store(0, Relaxed);
        if self.min_rate.is_some() {
            let more = self.clock.now() - self.counted_from.load(Relaxed);
            self.waited.store(self.waited.load(Relaxed) + more, Relaxed);
        }
    }

    fn rate_due(&self) -> u64 {
        let left = RATE_OVER.saturating_sub(self.waited.load(Relaxed));
        self.counted_from.load(Relaxed).saturating_add(left)
    }

    /// Whether nobody was there to take the bytes: the deadline has passed long ago, and [`late`](Self::late) was not
    /// called.
    pub(crate) fn is_overdue(&self) -> bool {
        let overdue = || self.clock.now() > self.rate_due().saturating_add(1000);
        self.waiting() != 0 && overdue()
    }

    /// Starts anew, as if no bytes had waited and none been taken.
    pub(crate) fn forgets(&self) {
        self.waiting.store(0, Relaxed);
        self.waited.store(0, Relaxed);
        self.taken.store(0, Relaxed);
    }
}

impl Deadline for Pace {
    type Late = Cause;

    fn clock(&self) -> Clock {
        self.clock
    }

    #[inline]
    fn deadline(&self) -> Option<u64> {
        let since = self.waiting().checked_sub(1)?;
        let stall = self.write_stall.map(|limit| since.saturating_add(limit));
        let rate = self.min_rate.map(|_| self.rate_due());
        match (stall, rate) {
            (Some(stall), Some(rate)) => Some(stall.min(rate)),
            (one, other) => one.or(other),
        }
    }

    /// The client has stopped, or is too slow.
    fn late(&self) -> Option<Cause> {
        let since = self.waiting().checked_sub(1)?;
        let now = self.clock.now();
        if let Some(limit) = self.write_stall
            && now >= since.saturating_add(limit)
        {
            let limit = Duration::from_millis(limit);
            let message = format!("the client took none of the waiting bytes for {limit:?}");
            return Some(Cause::new(self.fault, message));
        }
        let min_rate = self.min_rate?;
        if now < self.rate_due() {
            return None;
        }
        let taken = self.taken.swap(0, Relaxed).saturating_add(self.unknown);
        let waited = self.waited.swap(0, Relaxed) + (now - self.counted_from.load(Relaxed));
        self.counted_from.store(now, Relaxed);
        let rate = taken.saturating_mul(1000) / waited.max(1);
        let did = match self.fault {
            FaultKind::SlowUpload => "sent",
            _ => "took",
        };
        (rate < min_rate).then(|| {
            let message =
                format!("the client {did} {rate} of at least {min_rate} bytes per second");
            Cause::new(self.fault, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(write_stall: Option<Duration>, min_rate: Option<u64>) -> Pace {
        let settings = Settings {
            write_stall,
            min_rate,
            ..Settings::default()
        };
        Pace::new(Clock::start(), &settings)
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_something_in_time_has_not_stopped() {
        let pace = pace(Some(30 * SECOND), None);
        assert_eq!(pace.deadline(), None);
        for _ in 0..10 {
            pace.waits();
            advance(29 * SECOND).await;
            pace.waits();
            assert_eq!(pace.late(), None);
            pace.takes(1);
        }
        pace.waits();
        assert_eq!(pace.deadline(), Some(320_000));
        advance(30 * SECOND).await;
        let cause = pace.late().unwrap();
        assert_eq!(cause.kind(), FaultKind::SlowReader);
        assert!(cause.message().ends_with("for 30s"), "{cause}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_has_nothing_to_read_is_not_blamed() {
        let pace = pace(Some(30 * SECOND), Some(1000));
        advance(1000 * SECOND).await;
        assert_eq!((pace.deadline(), pace.late()), (None, None));
        pace.waits();
        pace.takes(1);
        advance(1000 * SECOND).await;
        assert_eq!((pace.deadline(), pace.late()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_20_seconds_of_waiting() {
        let pace = pace(None, Some(100));
        // In 40 s, bytes wait for 20 s, and the reader takes 150 bytes per second of waiting.
        for _ in 0..10 {
            pace.waits();
            advance(2 * SECOND).await;
            pace.takes(300);
            advance(2 * SECOND).await;
        }
        pace.waits();
        assert_eq!(pace.deadline(), Some(40_000));
        assert_eq!(pace.late(), None);
        // After that, the reader takes 99 B/s.
        for _ in 0..19 {
            advance(SECOND).await;
            assert_eq!(pace.late(), None);
            pace.takes(99);
            pace.waits();
        }
        advance(SECOND).await;
        pace.takes(99);
        pace.waits();
        let cause = pace.late().unwrap();
        assert!(cause.message().contains("took 99 of"), "{cause}");
    }
}
