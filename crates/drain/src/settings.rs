//! The settings of a drain.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use crate::{Drain, shared::Shared};

/// Longer than any process runs, but short enough to be added to any [`Instant`](tokio::time::Instant).
pub(crate) const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Decides by the head of a request whether a drain never refuses it.
pub(crate) type Exempt = Arc<dyn Fn(&http::request::Parts) -> bool + Send + Sync>;

/// The response to a request that arrives too late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// 503 Service Unavailable.
    #[default]
    Unavailable,
    /// 429 Too Many Requests, for clients and proxies that retry after it, but stop using a server that returns 503.
    TooManyRequests,
    /// On HTTP/2, the stream is reset with REFUSED_STREAM, which says that the request was not processed and a retry is
    /// safe (RFC 9113 section 8.7). HTTP/1 has no equivalent, so there it is a 503.
    RefusedStream,
}

pub(crate) struct Settings {
    pub(crate) advertise: Duration,
    /// `None`: requests in flight may take any time.
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
    /// A random time between the bounds, so that clients do not all retry at once.
    pub(crate) fn retry_after(&self) -> Duration {
        let millis = |d: &Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let (from, to) = (
            millis(self.retry_after.start()),
            millis(self.retry_after.end()),
        );
        Duration::from_millis(fastrand::u64(from..=to.max(from)))
    }

    /// How long before the close a [server](Drain::server) stops accepting and sends GOAWAY. Clients that connected or
    /// sent a request just before, and could not know, are still served.
    pub(crate) fn handover(&self) -> Duration {
        (self.advertise / 4).min(Duration::from_millis(250))
    }

    /// Returns a warning if the drain takes longer than the orchestrator waits.
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

/// The orchestrator would kill the process before the drain is over. Logged as a warning when serving starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetExceeded {
    /// `None`: there is no deadline.
    needed: Option<Duration>,
    grace: Duration,
}

impl BudgetExceeded {
    /// Time in reserve for the start of the drain and the exit of the process.
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

/// Settings contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// The deadline is counted from the start and includes the advertise phase, so it must be longer.
    AdvertiseReachesDeadline {
        /// The value of [`Builder::advertise`].
        advertise: Duration,
        /// The value of [`Builder::deadline`].
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
    /// Sets the duration of the advertise phase, in which load balancers and clients learn of the drain. Default: 5 s.
    ///
    /// It must cover the readiness probe's `periodSeconds` x `failureThreshold`, and the time until the load balancer
    /// reacts. With zero, connections are closed at once, and requests on their way to an idle connection are lost.
    pub fn advertise(mut self, duration: Duration) -> Self {
        self.0.advertise = duration;
        self
    }

    /// Sets the time after the start at which everything still in flight is aborted; includes
    /// [`advertise`](Self::advertise). Default: 20 s.
    ///
    /// A deadline beyond the range of the clock, such as [`Duration::MAX`], means [none](Self::no_deadline).
    pub fn deadline(mut self, duration: Duration) -> Self {
        self.0.deadline = Some(duration);
        self
    }

    /// Aborts nothing: the drain takes as long as its longest request, unless a second signal or
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

    /// Sets the longest time after the deadline for last events to be sent. The drain ends as soon as every stream that
    /// was ended is dropped and nothing has ended for 25 ms. Default: 250 ms.
    pub fn settle(mut self, duration: Duration) -> Self {
        self.0.settle = duration;
        self
    }

    /// Sets the time, from the close on, over which the streams with [`Policy::EndEarly`](crate::Policy::EndEarly) are
    /// ended. Default: 10 s, or until the deadline if that is sooner.
    pub fn early_end_window(mut self, duration: Duration) -> Self {
        self.0.early_end_window = duration;
        self
    }

    /// Sets the time between SIGTERM and SIGKILL that the orchestrator grants (`terminationGracePeriodSeconds`), minus
    /// the time of a preStop hook. `tower_stream_serve::serve` warns if the drain needs longer, with 5 s in reserve.
    pub fn grace_period(mut self, duration: Duration) -> Self {
        self.0.grace_period = Some(duration);
        self
    }

    /// Sets the bounds of the time after which a refused client, or one whose stream was ended, should retry. Each
    /// client is told a random time. Default: 1 to 5 s.
    ///
    /// `Retry-After` counts seconds, so it is rounded up; SSE's `retry:` counts milliseconds.
    pub fn retry_after(mut self, bounds: RangeInclusive<Duration>) -> Self {
        self.0.retry_after = bounds;
        self
    }

    /// Sets the response to a request that arrives too late. Default: [`Refusal::Unavailable`].
    pub fn refuse_with(mut self, refusal: Refusal) -> Self {
        self.0.refusal = refusal;
        self
    }

    /// Adds a path that is never refused. `/livez` and `/readyz` never are.
    ///
    /// The path is compared with the one that [`DrainLayer`](crate::DrainLayer) sees. In a nested router, this is the
    /// path without the prefix.
    pub fn exempt(mut self, path: impl Into<String>) -> Self {
        self.0.paths.push(path.into());
        self
    }

    /// Sets a rule for requests that are never refused. The rule runs only while requests are being refused.
    pub fn exempt_if<F>(mut self, rule: F) -> Self
    where
        F: Fn(&http::request::Parts) -> bool + Send + Sync + 'static,
    {
        self.0.exempt = Some(Arc::new(rule));
        self
    }

    /// Builds the drain.
    ///
    /// # Panics
    ///
    /// Panics if the settings contradict each other, see [`BuildError`]. [`try_build`](Self::try_build) returns this
    /// error instead.
    #[must_use]
    pub fn build(self) -> Drain {
        match self.try_build() {
            Ok(drain) => drain,
            Err(error) => panic!("{error}"),
        }
    }

    /// Builds the drain.
    ///
    /// # Errors
    ///
    /// Fails if the settings contradict each other: advertise is not shorter than the deadline, or the range of
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
