//! The schedule of a drain, which is fixed at its start and compared with the clock when the state is read.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    Policy,
    settings::{FOR_EVER, Settings},
};

/// The times of a started drain.
///
/// Each start publishes it once. Nothing has to run for the drain to continue, because its phase follows from the
/// schedule and the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) started: Instant,
    /// When `serve` stops accepting and sends GOAWAY. Requests are still served.
    pub(crate) handover: Instant,
    pub(crate) close: Instant,
    /// `None`: requests in flight may take any time.
    pub(crate) deadline: Option<Instant>,
    /// Streams with [`Policy::EndEarly`] end within this time after the close.
    early_window: Duration,
    /// Streams with [`Policy::RunToDeadline`] end within this time before the deadline.
    lead: Duration,
}

/// Cost of one last event on a small machine, with the end of its connection and a client on the same cores.
const FAREWELL_COST: Duration = Duration::from_micros(50);
const LONGEST_LEAD: Duration = Duration::from_secs(1);

impl Schedule {
    /// The schedule of a drain that was started at `started`, and is now started again (or for the first time) at `now`
    /// with `in_flight` requests.
    pub(crate) fn new(
        settings: &Settings,
        started: Instant,
        advertised: Instant,
        deadline: Option<Instant>,
        now: Instant,
        in_flight: u64,
    ) -> Self {
        let no_later = |at: Instant| deadline.map_or(at, |deadline| deadline.min(at));
        let close = no_later(advertised);
        let left = deadline.map_or(FOR_EVER, |deadline| deadline - close);
        // Ending thousands of streams at once would take longer than the time to the deadline, so that many start
        // before it.
        let left_now = deadline.map_or(Duration::ZERO, |deadline| {
            deadline.saturating_duration_since(close.max(now))
        });
        let all = FAREWELL_COST.saturating_mul(u32::try_from(in_flight).unwrap_or(u32::MAX));
        Self {
            started,
            handover: no_later((advertised - settings.handover()).max(started)),
            close,
            deadline,
            early_window: settings.early_end_window.min(left),
            lead: all.min(LONGEST_LEAD).min(left_now / 2),
        }
    }

    /// When a stream with this policy ends. `jitter`, from 0 to 1, spreads the streams over the window of the policy. A
    /// response without a policy ends at the deadline.
    pub(crate) fn due(&self, policy: Option<Policy>, jitter: f32) -> Option<Instant> {
        match policy {
            Some(Policy::EndEarly) => Some(self.close + self.early_window.mul_f32(jitter)),
            Some(Policy::RunToDeadline) => self.deadline.map(|at| at - self.lead.mul_f32(jitter)),
            None => self.deadline,
        }
    }
}
