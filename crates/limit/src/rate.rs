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

    /// Sets how many requests may come at once after a pause.
    ///
    /// # Panics
    ///
    /// Panics if `requests` is 0.
    #[must_use]
    pub fn burst(self, requests: u32) -> Self {
        Self {
            quota: self.quota.allow_burst(positive(requests)),
        }
    }

    pub(crate) fn meter(&self, clock: MonotonicClock) -> Meter {
        RateLimiter::direct_with_clock(self.quota, clock).with_middleware()
    }

    /// The time in which a burst is replenished.
    pub(crate) fn replenished_in(&self) -> Duration {
        self.quota.burst_size_replenished_in()
    }

    /// `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers. The window is the time in which a burst
    /// is replenished; `t` is the time until the whole quota is available again, or until the next request for a request
    /// that was refused.
    pub(crate) fn fields(&self, left: Left) -> [(HeaderName, String); 2] {
        let quota = self.quota.burst_size();
        let window = seconds(self.replenished_in());
        let Left { requests, wait } = left;
        let wait = wait.unwrap_or_else(|| {
            self.quota.replenish_interval() * quota.get().saturating_sub(requests)
        });
        let reset = seconds(wait);
        [
            (
                HeaderName::from_static("ratelimit-policy"),
                format!("\"default\";q={quota};w={}", window.max(1)),
            ),
            (
                HeaderName::from_static("ratelimit"),
                format!("\"default\";r={requests};t={reset}"),
            ),
        ]
    }
}

/// What is left of a quota.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    pub(crate) requests: u32,
    /// The time until the next request, if this one is refused.
    pub(crate) wait: Option<Duration>,
}

/// Adds a line, because a layer inside may have a policy of its own.
pub(crate) fn append(fields: [(HeaderName, String); 2], headers: &mut HeaderMap) {
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(name, value);
        }
    }
}

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

/// Counts a request, or refuses it.
pub(crate) fn check(meter: &Meter, clock: &MonotonicClock) -> Left {
    let outcome: Result<StateSnapshot, NotUntil<Duration>> = meter.check();
    match outcome {
        Ok(state) => Left {
            requests: state.remaining_burst_capacity(),
            wait: None,
        },
        Err(until) => Left {
            requests: 0,
            wait: Some(until.wait_time_from(clock.now())),
        },
    }
}

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
