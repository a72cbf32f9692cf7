//! What a drain is built with.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use crate::{Drain, shared::Shared};

/// Longer than any process runs, and short enough to be added to an [`Instant`](tokio::time::Instant) anywhere.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Decides by the head of a request whether a drain never refuses it.
pub(crate) type Exempt = Arc<dyn Fn(&http::request::Parts) -> bool + Send + Sync>;

/// What a request that comes too late is answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// 503 Service Unavailable.
    #[default]
    Unavailable,
    /// 429 Too Many Requests, for clients and proxies that retry it and give a server up at 503.
    TooManyRequests,
    /// On HTTP/2 the stream is reset with REFUSED_STREAM, which says that nothing was done and that a retry is safe
    /// (RFC 9113 section 8.7). On HTTP/1, which cannot say it, 503.
    RefusedStream,
}

pub(crate) struct Settings {
    pub(crate) advertise: Duration,
    /// `None`: what is in flight may take as long as it likes
    pub(crate) deadline: Option<Duration>,
    pub(crate) settle: Duration,
    pub(crate) early_end_window: Duration,
    pub(crate) grace_period: Option<Duration>,
    pub(crate) retry_after: RangeInclusive<Duration>,
    pub(crate) refusal: Refusal,
    pub(crate) paths: Vec<String>,
    pub(crate) exempt: Option<Exempt>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            advertise: Duration::from_secs(5),
            deadline: Some(Duration::from_secs(20)),
            settle: Duration::from_millis(250),
            early_end_window: Duration::from_secs(10),
            grace_period: None,
            retry_after: Duration::from_secs(1)..=Duration::from_secs(5),
            refusal: Refusal::default(),
            paths: vec!["/livez".to_owned(), "/readyz".to_owned()],
            exempt: None,
        }
    }
}

impl Settings {
    /// Some time between the bounds for each client, so that they do not come back together.
    pub(crate) fn retry_after(&self) -> Duration {
        let millis = |d: &Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let (from, to) = (
            millis(self.retry_after.start()),
            millis(self.retry_after.end()),
        );
        Duration::from_millis(fastrand::u64(from..=to.max(from)))
    }

    /// How long before the close a [server](Drain::server) stops to accept and sends GOAWAY: whoever connected or
    /// asked just then, and could not know, is still served.
    pub(crate) fn handover(&self) -> Duration {
        (self.advertise / 4).min(Duration::from_millis(250))
    }

    /// A warning, when the whole takes longer than the orchestrator waits.
    pub(crate) fn over_budget(&self) -> Option<BudgetExceeded> {
        let grace = self.grace_period?;
        let needed = self.deadline.map(|deadline| {
            let settled = deadline.saturating_add(self.settle);
            settled.saturating_add(BudgetExceeded::RESERVE)
        });
        let exceeded = needed.is_none_or(|needed| needed > grace);
        exceeded.then_some(BudgetExceeded { needed, grace })
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("advertise", &self.advertise)
            .field("deadline", &self.deadline)
            .field("settle", &self.settle)
            .field("early_end_window", &self.early_end_window)
            .field("grace_period", &self.grace_period)
            .field("retry_after", &self.retry_after)
            .field("refusal", &self.refusal)
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

/// The orchestrator would kill the process before the drain is over; said in a warning when serving begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetExceeded {
    /// `None`: there is no deadline
    needed: Option<Duration>,
    grace: Duration,
}

impl BudgetExceeded {
    /// What is kept back for the start of the drain and the exit of the process.
    const RESERVE: Duration = Duration::from_secs(5);
}

impl fmt::Display for BudgetExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(needed) = self.needed else {
            return write!(
                f,
                "the drain has no deadline, but the process is killed after {:?}: set one, or raise \
                 terminationGracePeriodSeconds",
                self.grace
            );
        };
        write!(
            f,
            "the drain needs {needed:?} (deadline, settle and {:?} in reserve), but the process is killed after {:?}: \
             shorten the deadline or raise terminationGracePeriodSeconds",
            Self::RESERVE,
            self.grace
        )
    }
}

impl std::error::Error for BudgetExceeded {}

/// Settings that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// The deadline counts from the start and includes advertise, so it has to be longer.
    AdvertiseReachesDeadline {
        /// What [`Builder::advertise`] was set to.
        advertise: Duration,
        /// What [`Builder::deadline`] was set to.
        deadline: Duration,
    },
    /// The range of [`Builder::retry_after`] is empty.
    EmptyRetryAfter,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AdvertiseReachesDeadline {
                advertise,
                deadline,
            } => write!(
                f,
                "advertise ({advertise:?}) has to be shorter than the deadline ({deadline:?}), which includes it"
            ),
            Self::EmptyRetryAfter => f.write_str("the range of retry_after is empty"),
        }
    }
}

impl std::error::Error for BuildError {}

/// Builds a [`Drain`].
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until it is built"]
pub struct Builder(Settings);

impl Builder {
    /// How long the word spreads before anybody is turned away. 5 s.
    ///
    /// It has to cover the readiness probe's `periodSeconds` x `failureThreshold`, and the time in which the load
    /// balancer acts on it. With zero, connections are closed at once and requests on their way to an idle one are lost.
    pub fn advertise(mut self, duration: Duration) -> Self {
        self.0.advertise = duration;
        self
    }

    /// How long after the start what is left is cut; includes [`advertise`](Self::advertise). 20 s.
    ///
    /// One that no clock can reach, such as [`Duration::MAX`], is [none](Self::no_deadline).
    pub fn deadline(mut self, duration: Duration) -> Self {
        self.0.deadline = Some(duration);
        self
    }

    /// Cuts nothing: the drain takes as long as its longest request, unless a second signal or
    /// [`start_within`](Drain::start_within) ends it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_stream_drain::{Drain, DrainToken};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let drain = Drain::builder().no_deadline().build();
    /// let token = DrainToken::new(&drain);
    /// drain.start();
    /// assert!(drain.state().is_draining());
    /// assert_eq!(drain.deadline(), None);
    /// drain.start_within(Duration::from_secs(1)); // enough is enough
    /// drain.dead().await;
    /// # drop(token);
    /// # }
    /// ```
    pub fn no_deadline(mut self) -> Self {
        self.0.deadline = None;
        self
    }

    /// How long after the deadline, at most, is waited for farewells to leave. It ends as soon as every stream that took
    /// one is dropped and nothing has ended for 25 ms. 250 ms.
    pub fn settle(mut self, duration: Duration) -> Self {
        self.0.settle = duration;
        self
    }

    /// Over how long the streams under [`Policy::EndEarly`](crate::Policy::EndEarly) are ended, from the close on.
    /// 10 s, or until the deadline if that is sooner.
    pub fn early_end_window(mut self, duration: Duration) -> Self {
        self.0.early_end_window = duration;
        self
    }

    /// What the orchestrator grants the process after SIGTERM (`terminationGracePeriodSeconds`), less what a preStop
    /// hook takes of it: `tower_stream_serve::serve` warns when the drain needs longer, 5 s in reserve.
    pub fn grace_period(mut self, duration: Duration) -> Self {
        self.0.grace_period = Some(duration);
        self
    }

    /// The bounds of what a refused client, or one whose stream was ended, is told to wait; each is told something else. 1 to 5 s.
    ///
    /// `Retry-After` counts seconds, so it is rounded up; SSE's `retry:` counts milliseconds.
    pub fn retry_after(mut self, bounds: RangeInclusive<Duration>) -> Self {
        self.0.retry_after = bounds;
        self
    }

    /// What a request that comes too late is answered with. [`Refusal::Unavailable`].
    pub fn refuse_with(mut self, refusal: Refusal) -> Self {
        self.0.refusal = refusal;
        self
    }

    /// One more path that is never refused. `/livez` and `/readyz` never are.
    ///
    /// It is compared with the path as [`DrainLayer`](crate::DrainLayer) sees it, which within a nested router is what
    /// is left of it.
    pub fn exempt(mut self, path: impl Into<String>) -> Self {
        self.0.paths.push(path.into());
        self
    }

    /// Requests that are never refused, by any rule. It runs only while requests are being refused.
    pub fn exempt_if<F>(mut self, rule: F) -> Self
    where
        F: Fn(&http::request::Parts) -> bool + Send + Sync + 'static,
    {
        self.0.exempt = Some(Arc::new(rule));
        self
    }

    /// The drain.
    ///
    /// # Panics
    ///
    /// When the settings contradict each other, see [`BuildError`]. [`try_build`](Self::try_build) returns that.
    #[must_use]
    pub fn build(self) -> Drain {
        match self.try_build() {
            Ok(drain) => drain,
            Err(error) => panic!("{error}"),
        }
    }

    /// The drain.
    ///
    /// # Errors
    ///
    /// When the settings contradict each other: advertise reaches the deadline, or the range of
    /// [`retry_after`](Self::retry_after) is empty.
    pub fn try_build(self) -> Result<Drain, BuildError> {
        let settings = self.0;
        if let Some(deadline) = settings.deadline
            && settings.advertise >= deadline
        {
            return Err(BuildError::AdvertiseReachesDeadline {
                advertise: settings.advertise,
                deadline,
            });
        }
        if settings.retry_after.is_empty() {
            return Err(BuildError::EmptyRetryAfter);
        }
        Ok(Drain::from(Shared::new(settings)))
    }
}
