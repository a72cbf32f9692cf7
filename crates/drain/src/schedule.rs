//! When a drain does what: decided when it is started, and compared with the clock whenever somebody asks.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    Policy,
    settings::{FOR_EVER, Settings},
};

/// The moments of a drain that was started.
///
/// It is published once by each start, and nothing has to run for the drain to go on: its phase follows from the
/// schedule and the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) started: Instant,
    /// `serve` stops to accept and sends GOAWAY; requests are still served.
    pub(crate) handover: Instant,
    pub(crate) close: Instant,
    /// `None`: requests in flight may take as long as they like.
    pub(crate) deadline: Option<Instant>,
    /// Streams under [`Policy::EndEarly`] end within this time after the close.
    early_window: Duration,
    /// Streams under [`Policy::RunToDeadline`] end within this time before the deadline.
    lead: Duration,
}

/// What one farewell costs a small machine, with the end of its connection and a client on the same cores.
const FAREWELL_COST: Duration = Duration::from_micros(50);
const LONGEST_LEAD: Duration = Duration::from_secs(1);

impl Schedule {
    /// The schedule of a drain that began at `started` and was started again, or for the first time, at `now` with
    /// `in_flight` requests.
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
        // Thousands of farewells at once would take longer than the deadline leaves, so that many begin before it.
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

    /// When a stream with this policy ends. `jitter`, from 0 to 1, spreads the streams over the window of the policy.
    /// Without a policy, a response ends at the deadline and not before.
    pub(crate) fn due(&self, policy: Option<Policy>, jitter: f32) -> Option<Instant> {
        match policy {
            Some(Policy::EndEarly) => Some(self.close + self.early_window.mul_f32(jitter)),
            Some(Policy::RunToDeadline) => self.deadline.map(|at| at - self.lead.mul_f32(jitter)),
            None => self.deadline,
        }
    }
}
