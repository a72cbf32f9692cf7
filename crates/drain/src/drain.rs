//! The handle of a drain.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use tokio::{sync::watch, time::Instant};

use crate::{
    BudgetExceeded, Builder, DrainLayer, Draining, FarewellLayer, Phase, Probe, State, Stats,
    schedule::Schedule, shared::Shared,
};

/// The handle of a drain. Clones are handles of the same drain.
///
/// Starting the drain fixes a schedule, and from then on its state depends only on the clock: it is computed when it is
/// read, or when a request arrives. The drain needs no task of its own, and dropping handles has no effect.
#[derive(Clone)]
pub struct Drain {
    pub(crate) shared: Arc<Shared>,
}

impl From<Shared> for Drain {
    fn from(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl Drain {
    /// Creates a builder.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts the drain with the deadline from its builder. Has no effect if it has already been started.
    ///
    /// It can be called anywhere, also on a thread without a runtime. The drain continues when the runtime in which it
    /// was started is gone.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use tower_stream_drain::{Drain, State};
    ///
    /// let drain = Drain::builder().build();
    /// drain.start();
    /// drain.start();
    /// assert!(drain.state().is_draining());
    /// drain.dead().await;
    /// assert_eq!(drain.state(), State::Dead);
    /// # }
    /// ```
    pub fn start(&self) {
        self.shared.start(None);
    }

    /// Starts the drain so that it ends at the latest `limit` from now. If it has already been started, this can only
    /// shorten it. Zero aborts everything now, without last events or [`settle`](Builder::settle). A limit beyond the
    /// range of the clock, such as [`Duration::MAX`], means no limit.
    pub fn start_within(&self, limit: Duration) {
        self.shared.start(Some(limit));
    }

    /// Like [`start`](Self::start), but closes at once without the advertise phase. Requests in flight may continue
    /// until the deadline.
    ///
    /// For a server without a load balancer, for example one that is stopped in a terminal.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// use tower_stream_drain::{Drain, Phase, State};
    ///
    /// let drain = Drain::builder().build();
    /// drain.start_without_advertise();
    /// assert!(drain.state().is_refusing());
    /// # }
    /// ```
    pub fn start_without_advertise(&self) {
        self.shared.start_advertising(Duration::ZERO, None);
    }

    /// The current state.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.state()
    }

    /// Number of requests in flight: from the call of the service to the drop of the response body. Upgraded
    /// connections count as long as their [`DrainToken`](crate::DrainToken) is held.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.shared.admission.load().count()
    }

    /// Waits until nothing is in flight, in any state. Returns at once if nothing is.
    pub async fn idle(&self) {
        self.shared.idle().await;
    }

    /// Waits until the drain is dead: until nothing is in flight after the close, or until the deadline has passed and
    /// the last events have been sent.
    ///
    /// If no task waits here, the drain is dead at the latest when [`settle`](Builder::settle) has passed after the
    /// deadline.
    ///
    /// # Panics
    ///
    /// Panics if it has to wait outside of a tokio runtime with timers.
    pub async fn dead(&self) {
        self.shared.dead().await;
    }

    /// A stream of the current state and each later one, up to [`State::Dead`]. If the stream is polled late, it skips
    /// states.
    ///
    /// Like [`dead`](Self::dead), the stream needs a tokio runtime with timers.
    #[must_use]
    pub fn watch(&self) -> States {
        let state = self.state();
        States {
            shared: Arc::downgrade(&self.shared),
            schedule: self.shared.subscribe(),
            next: Some(Box::pin(std::future::ready(Some(state)))),
        }
    }

    /// The current figures.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// The time at which streams are aborted. `None` before the start, and for a drain without a
    /// [deadline](Builder::no_deadline).
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.shared.schedule()?.deadline
    }

    /// Returns a warning if the drain needs longer than the [`grace_period`](Builder::grace_period) of its builder,
    /// with 5 s in reserve. `tower_stream_serve::serve` logs it; with another server, log it yourself.
    #[must_use]
    pub fn over_budget(&self) -> Option<BudgetExceeded> {
        self.shared.settings.over_budget()
    }

    /// The layer that admits and counts requests, and closes their connections.
    #[must_use]
    pub fn layer(&self) -> DrainLayer {
        DrainLayer::new(self)
    }

    /// The layer that ends streams: see [`FarewellLayer::policy`] for when.
    #[must_use]
    pub fn farewell(&self) -> FarewellLayer {
        FarewellLayer::new(self)
    }

    /// The value that handlers get as an extractor, for other tasks.
    #[must_use]
    pub fn draining(&self) -> Draining {
        Draining::new(Arc::clone(&self.shared))
    }

    /// A service for readiness probes: 200 while active, 503 from the start of the drain.
    #[must_use]
    pub fn readiness(&self) -> Probe {
        Probe::readiness(Arc::clone(&self.shared))
    }

    /// A service for liveness probes: always 200, because a restart does not help a draining server.
    #[must_use]
    pub fn liveness(&self) -> Probe {
        Probe::liveness(Arc::clone(&self.shared))
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("stats", &self.stats())
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

/// The states of a drain, from [`Drain::watch`]. The stream ends after [`State::Dead`].
pub struct States {
    /// Weak, so that it does not keep a drain alive that is never started.
    shared: Weak<Shared>,
    schedule: watch::Receiver<Option<Schedule>>,
    next: Option<Pin<Box<dyn Future<Output = Option<State>> + Send + Sync>>>,
}

/// The next state. `None` if all handles are dropped before the start.
async fn next_state(
    seen: State,
    shared: Weak<Shared>,
    mut schedule: watch::Receiver<Option<Schedule>>,
) -> Option<State> {
    if seen == State::Active {
        schedule.wait_for(Option::is_some).await.ok()?;
    }
    let shared = shared.upgrade()?;
    match seen {
        State::Draining(Phase::Advertise) => {
            shared.until(|schedule| Some(schedule.close)).await;
        }
        State::Draining(Phase::Close) => shared.dead().await,
        State::Active | State::Dead => {}
    }
    Some(shared.state())
}

impl Stream for States {
    type Item = State;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<State>> {
        let Some(next) = &mut self.next else {
            return Poll::Ready(None);
        };
        let state = ready!(next.as_mut().poll(cx));
        let seen = state.filter(|state| *state != State::Dead);
        self.next = seen.map(|seen| {
            let shared = Weak::clone(&self.shared);
            Box::pin(next_state(seen, shared, self.schedule.clone())) as _
        });
        Poll::Ready(state)
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("States").finish_non_exhaustive()
    }
}
