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
    BudgetExceeded, Builder, DrainLayer, Draining, FarewellLayer, Phase, Policy, Probe, State,
    Stats, schedule::Schedule, shared::Shared,
};

/// The handle of a drain; a clone is another handle of the same one.
///
/// Starting it fixes a schedule, and from then on the clock decides: whoever asks for the state, or sends a request,
/// sees the state of that moment. No task runs for the drain itself, and dropping handles changes nothing.
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
    /// Begins to build one.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts draining with the deadline it was built with. Does nothing when it was started before.
    ///
    /// May be called from anywhere, also from a thread without a runtime. The drain goes on when the runtime that it
    /// was started in is gone.
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

    /// Starts draining, over in `limit` from now at the latest. When it was started before, this may only shorten what
    /// is left of it; zero cuts everything now, farewells and [`settle`](Builder::settle) included. A limit that no
    /// clock can reach, such as [`Duration::MAX`], is none.
    pub fn start_within(&self, limit: Duration) {
        self.shared.start(Some(limit));
    }

    /// As [`start`](Self::start), without advertising: it closes at once. What is in flight may end until the deadline.
    ///
    /// For a server without a load balancer that has to see it go, such as one that a person stops in a terminal.
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

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.state()
    }

    /// How many requests have not ended: from the call of the service to the drop of the response body, upgraded
    /// connections as long as their [`DrainToken`](crate::DrainToken) is held.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.shared.admission.load().count()
    }

    /// Waits until nothing is in flight, in whatever state; at once if nothing is now.
    pub async fn idle(&self) {
        self.shared.idle().await;
    }

    /// Waits until the drain is dead: until nothing is in flight after the close, or the deadline has passed and the
    /// farewells have left.
    ///
    /// Needs the timers of a tokio runtime. A drain that nobody waits for is dead at the latest when
    /// [`settle`](Builder::settle) has passed after the deadline.
    ///
    /// # Panics
    ///
    /// When it has to wait outside of a tokio runtime with timers.
    pub async fn dead(&self) {
        self.shared.dead().await;
    }

    /// The state now and each one after it, up to [`State::Dead`]. A stream that is read slowly leaves states out.
    ///
    /// The stream waits as [`dead`](Self::dead) does, in a tokio runtime with timers.
    #[must_use]
    pub fn watch(&self) -> States {
        let state = self.state();
        States {
            shared: Arc::downgrade(&self.shared),
            schedule: self.shared.subscribe(),
            next: Some(Box::pin(std::future::ready(Some(state)))),
        }
    }

    /// The figures now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// When streams are cut; `None` before the start, and for a drain without a
    /// [deadline](Builder::no_deadline).
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.shared.schedule()?.deadline
    }

    /// Whether it needs longer than the [`grace_period`](Builder::grace_period) that it was built with, 5 s in reserve.
    /// `tower_stream_serve::serve` logs it as a warning; with another server, do so yourself.
    #[must_use]
    pub fn over_budget(&self) -> Option<BudgetExceeded> {
        self.shared.settings.over_budget()
    }

    /// The layer that admits, counts and closes.
    #[must_use]
    pub fn layer(&self) -> DrainLayer {
        DrainLayer::new(self)
    }

    /// The layer that ends streams, with [`Policy::RunToDeadline`]; [`FarewellLayer::policy`] changes that.
    #[must_use]
    pub fn farewell(&self) -> FarewellLayer {
        FarewellLayer::new(self, Policy::default())
    }

    /// What handlers get as an extractor, for tasks that are no handlers.
    #[must_use]
    pub fn draining(&self) -> Draining {
        Draining::new(Arc::clone(&self.shared))
    }

    /// A service that answers readiness probes: 200 while active, 503 from the start of the drain.
    #[must_use]
    pub fn readiness(&self) -> Probe {
        Probe::readiness(Arc::clone(&self.shared))
    }

    /// A service that answers liveness probes: always 200. A restart would help nobody who is draining.
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

/// The states of a drain, from [`Drain::watch`]. Ends after [`State::Dead`].
pub struct States {
    /// Does not keep an active drain alive.
    shared: Weak<Shared>,
    schedule: watch::Receiver<Option<Schedule>>,
    next: Option<Pin<Box<dyn Future<Output = Option<State>> + Send + Sync>>>,
}

/// The state that follows on this one; `None` when the drain is gone before it was started.
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
