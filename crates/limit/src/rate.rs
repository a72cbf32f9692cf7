//! How many requests a key may send in a time.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::Clock,
    middleware::{StateInformationMiddleware, StateSnapshot},
    state::{InMemoryState, NotKeyed},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

/// A rate of requests, with a burst: GCRA, a leaky bucket that `governor` implements.
///
/// ```
/// use tower_stream_limit::Rate;
///
/// let five_a_second = Rate::per_second(5);
/// let one_in_ten_seconds_and_three_at_once = Rate::per_minute(6).burst(3);
/// # let _ = (five_a_second, one_in_ten_seconds_and_three_at_once);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    quota: Quota,
}

impl Rate {
    /// So many requests per second, and as many at once.
    ///
    /// # Panics
    ///
    /// Panics if `requests` is 0.
    #[must_use]
    pub fn per_second(requests: u32) -> Self {
        Self {
            quota: Quota::per_second(positive(requests)),
        }
    }

    /// So many requests per minute, and as many at once.
    ///
    /// # Panics
    ///
    /// Panics if `requests` is 0.
    #[must_use]
    pub fn per_minute(requests: u32) -> Self {
        Self {
            quota: Quota::per_minute(positive(requests)),
        }
    }

    /// Sets how many requests may come at once after a pause: at most as many as the rate allows in a year.
    ///
    /// # Panics
    ///
    /// Panics if `requests` is 0.
    #[must_use]
    pub fn burst(self, requests: u32) -> Self {
        // `governor` counts in nanoseconds and overflows after 584 years.
        let interval = self.quota.replenish_interval().as_nanos().max(1);
        let most = u32::try_from(YEAR.as_nanos() / interval).unwrap_or(u32::MAX);
        Self {
            quota: self
                .quota
                .allow_burst(positive(requests).min(positive(most))),
        }
    }

    pub(crate) fn meter(&self, clock: MonotonicClock) -> Meter {
        RateLimiter::direct_with_clock(self.quota, clock).with_middleware()
    }

    /// The time in which a burst is replenished.
    pub(crate) fn replenished_in(&self) -> Duration {
        self.quota.burst_size_replenished_in()
    }

    /// `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers. The window is the time in which a burst is replenished.
    pub(crate) fn policy(&self) -> Option<HeaderValue> {
        let quota = self.quota.burst_size();
        let window = seconds(self.replenished_in()).max(1);
        HeaderValue::try_from(format!("\"default\";q={quota};w={window}")).ok()
    }

    /// Counts a request, or returns the time until the next one is admitted.
    pub(crate) fn check(
        &self,
        meter: &Meter,
        clock: &MonotonicClock,
    ) -> (Remaining, Option<Duration>) {
        let outcome: Result<StateSnapshot, NotUntil<Duration>> = meter.check();
        let (requests, wait) = match outcome {
            Ok(state) => (state.remaining_burst_capacity(), None),
            Err(until) => (0, Some(until.wait_time_from(clock.now()))),
        };
        let used = self.quota.burst_size().get().saturating_sub(requests);
        let reset = wait.unwrap_or_else(|| self.quota.replenish_interval() * used);
        let remaining = Remaining {
            requests,
            reset: u32::try_from(seconds(reset)).unwrap_or(u32::MAX),
        };
        (remaining, wait)
    }
}

/// What remains of a quota.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remaining {
    requests: u32,
    /// Seconds until the whole quota is available again; for a request that was refused, until the next one is admitted.
    reset: u32,
}

impl Remaining {
    /// Adds the fields of draft-ietf-httpapi-ratelimit-headers. Adds lines, because a layer inside may have a policy of its
    /// own.
    pub(crate) fn tell(self, policy: Option<&HeaderValue>, headers: &mut HeaderMap) {
        const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
        const LEFT: HeaderName = HeaderName::from_static("ratelimit");
        let Self { requests, reset } = self;
        if let Some(policy) = policy {
            headers.append(POLICY, policy.clone());
        }
        if let Ok(left) = HeaderValue::try_from(format!("\"default\";r={requests};t={reset}")) {
            headers.append(LEFT, left);
        }
    }
}

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn positive(requests: u32) -> NonZeroU32 {
    match NonZeroU32::new(requests) {
        Some(requests) => requests,
        None => panic!("a rate of 0 requests; leave the rate out, or limit the streams to 0"),
    }
}

fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// The requests of one key.
pub(crate) type Meter =
    RateLimiter<NotKeyed, InMemoryState, MonotonicClock, StateInformationMiddleware>;

/// The clock of tokio, which never goes back and which tests can pause. Counted from its creation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MonotonicClock(Instant);

impl MonotonicClock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for MonotonicClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
