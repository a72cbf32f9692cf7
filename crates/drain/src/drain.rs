//! The handle, and what every layer of one drain shares.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_stream::wrappers::WatchStream;
use tower_stream_core::{Cause, Fault, FaultKind};

use crate::{
    BudgetExceeded, Builder, DrainLayer, Draining, FarewellLayer, Policy, Probe, State, Stats,
    admission::{Admission, Word},
    farewell::{Streams, words},
    run,
    settings::Settings,
    state::Phase,
};

/// The handle of a drain; a clone is another handle of the same one.
///
/// Dropping handles does nothing: the drain lives as long as a layer, a request or a running drain needs it.
#[derive(Clone)]
pub struct Drain {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) door: Admission,
    served: AtomicU64,
    refused: AtomicU64,
    /// farewells that streams have taken, those that are still in flight among them
    farewells: AtomicU64,
    farewelled: AtomicU64,
    cut: AtomicU64,
    /// accept loops that still have connections
    pub(crate) servers: AtomicUsize,
    /// somebody listens for them
    #[cfg(feature = "serve")]
    pub(crate) signals: std::sync::atomic::AtomicBool,
    pub(crate) streams: Streams,
    pub(crate) settings: Settings,
    /// something ended: whoever waits for the last one looks again
    pub(crate) ended: Notify,
    states: watch::Sender<State>,
    closed_at: OnceLock<Instant>,
    #[cfg(feature = "serve")]
    pub(crate) started_at: std::sync::OnceLock<Instant>,
    /// for the connections of `serve`
    pub(crate) steps: watch::Sender<Step>,
    /// when streams are cut: known from the start of the drain on, only ever moved forward
    pub(crate) deadline: watch::Sender<Option<Instant>>,
}

/// What a connection has to know; [`State`] with one step more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Serve,
    /// No more is accepted and HTTP/2 says GOAWAY; what arrives is still served.
    Handover,
    Close,
    Dead,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            door: Admission::new(),
            served: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            farewells: AtomicU64::new(0),
            farewelled: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            servers: AtomicUsize::new(0),
            #[cfg(feature = "serve")]
            signals: std::sync::atomic::AtomicBool::new(false),
            streams: Streams::default(),
            settings,
            ended: Notify::new(),
            states: watch::Sender::new(State::Active),
            closed_at: OnceLock::new(),
            #[cfg(feature = "serve")]
            started_at: std::sync::OnceLock::new(),
            steps: watch::Sender::new(Step::Serve),
            deadline: watch::Sender::new(None),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.door.load().state()
    }

    /// Whether a request that comes too late is served all the same, if it is one that could not know: for 2 s after
    /// the close, a quarter of what is left until the deadline at most. A busy machine may need that long to read it.
    pub(crate) fn is_lenient(&self) -> bool {
        let Some(closed) = self.closed_at.get() else {
            // the close is just being made
            return true;
        };
        let at_most = Duration::from_secs(2);
        let quarter = |deadline: Instant| deadline.saturating_duration_since(*closed) / 4;
        let window = self
            .deadline
            .borrow()
            .map_or(at_most, |deadline| quarter(deadline).min(at_most));
        self.state() != State::Dead && closed.elapsed() < window
    }

    /// A request is over, and in one figure: those that a dead drain has cut are counted as cut already.
    #[inline]
    pub(crate) fn leave_request(&self, fault: Option<&Fault>) {
        let word = self.door.leave();
        if word.state() != State::Dead {
            let cause = fault.and_then(Fault::cause);
            let figure = match cause.is_some_and(|cause| cause.kind() == FaultKind::Drain) {
                true => &self.farewelled,
                false => &self.served,
            };
            figure.fetch_add(1, Ordering::Relaxed);
        }
        self.left(word);
    }

    #[inline]
    pub(crate) fn left(&self, word: Word) {
        if word.is_awaited_end() {
            self.ended.notify_waiters();
        }
    }

    #[cold]
    pub(crate) fn refuse(&self, word: Option<Word>) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(word) = word {
            self.left(word);
        }
    }

    /// A stream takes its farewell: the cause to fail with, when the format has none. Recorded before anything is
    /// dropped; a cause that is known already wins, and then the stream is not one that the drain ended.
    #[cold]
    pub(crate) fn farewell(&self, fault: &Fault, retry: Duration) -> Cause {
        let cause = Cause::new(FaultKind::Drain, words::MESSAGE).with_retry_after(retry);
        if fault.record(cause.clone()) {
            self.farewells.fetch_add(1, Ordering::Relaxed);
        }
        cause
    }

    /// How much has happened: it grows with each farewell, end and refusal.
    pub(crate) fn progress(&self) -> u64 {
        let figures = [
            &self.farewells,
            &self.farewelled,
            &self.served,
            &self.refused,
        ];
        figures
            .map(|figure| figure.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    /// Whether a stream has taken its farewell, and its body is still held.
    pub(crate) fn has_open_farewells(&self) -> bool {
        self.farewells.load(Ordering::Relaxed) > self.farewelled.load(Ordering::Relaxed)
    }

    /// Goes on to `state`; the first to do it tells the others.
    pub(crate) fn advance(&self, state: State) -> bool {
        let before = self.door.advance(state);
        if before.state() >= state {
            return false;
        }
        if state == State::Dead {
            self.cut.store(before.count(), Ordering::Relaxed);
        }
        if state == State::Draining(Phase::Close) {
            let _ = self.closed_at.set(Instant::now());
        }
        self.states.send_replace(state);
        match state {
            State::Draining(Phase::Close) => self.step(Step::Close),
            State::Dead => self.step(Step::Dead),
            State::Active | State::Draining(Phase::Advertise) => {}
        }
        tracing::info!(%state, in_flight = before.count(), "drain");
        true
    }

    pub(crate) fn step(&self, step: Step) {
        self.steps.send_if_modified(|now| {
            let forward = *now < step;
            if forward {
                *now = step;
            }
            forward
        });
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn idle(&self) {
        self.until(|| self.door.load().count() == 0).await;
    }

    /// Waits until nothing is in flight and no connection is open.
    pub(crate) async fn finished(&self) {
        self.until(|| self.door.load().count() == 0 && self.servers.load(Ordering::Acquire) == 0)
            .await;
    }

    async fn until(&self, reached: impl Fn() -> bool) {
        self.door.watch();
        let mut ended = std::pin::pin!(self.ended.notified());
        loop {
            // first listen, then look: what ends in between is heard
            ended.as_mut().enable();
            if reached() {
                return;
            }
            ended.as_mut().await;
            ended.set(self.ended.notified());
        }
    }

    pub(crate) async fn started(&self) {
        let mut states = self.states.subscribe();
        // the sender is in `self`, so this cannot fail
        let _ = states.wait_for(|state| state.is_draining()).await;
    }
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
    /// May be called from anywhere. In a tokio runtime the drain runs as a task of that; elsewhere (a thread that
    /// handles signals) as a thread of its own.
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
        self.start_at_most(None);
    }

    /// Starts draining, over in `limit` from now at the latest. When it was started before, this may only shorten what
    /// is left of it; zero cuts everything now, farewells and [`settle`](Builder::settle) included. A limit that no
    /// clock can reach, such as [`Duration::MAX`], is none.
    pub fn start_within(&self, limit: Duration) {
        self.start_at_most(Some(limit));
    }

    fn start_at_most(&self, limit: Option<Duration>) {
        let now = Instant::now();
        let limits = [limit, self.shared.settings.deadline];
        let limit = limits.into_iter().flatten().min();
        if let Some(deadline) = limit.and_then(|limit| now.checked_add(limit)) {
            self.shared.deadline.send_if_modified(|known| {
                let sooner = known.is_none_or(|known| deadline < known);
                if sooner {
                    *known = Some(deadline);
                }
                sooner
            });
        }
        if self.shared.advance(State::Draining(Phase::Advertise)) {
            #[cfg(feature = "serve")]
            let _ = self.shared.started_at.set(now);
            run::spawn(Arc::clone(&self.shared), now);
        }
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
        self.shared.door.load().count()
    }

    /// Waits until nothing is in flight, in whatever state; at once if nothing is now.
    pub async fn idle(&self) {
        self.shared.idle().await;
    }

    /// Waits until the drain is over.
    pub async fn dead(&self) {
        let mut states = self.shared.states.subscribe();
        let _ = states.wait_for(|state| *state == State::Dead).await;
    }

    /// The state now and each one after it, up to [`State::Dead`]. Whoever reads slowly sees the latest.
    #[must_use]
    pub fn watch(&self) -> States {
        States {
            states: WatchStream::new(self.shared.states.subscribe()),
            over: false,
        }
    }

    /// The figures now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        let word = shared.door.load();
        let figure = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Stats {
            state: word.state(),
            in_flight: word.count(),
            served: figure(&shared.served),
            refused: figure(&shared.refused),
            farewelled: figure(&shared.farewelled),
            cut: figure(&shared.cut),
        }
    }

    /// When streams are cut; `None` before the start, and for a drain without a
    /// [deadline](Builder::no_deadline).
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        *self.shared.deadline.borrow()
    }

    /// Whether it needs longer than the [`grace_period`](Builder::grace_period) that it was built with, 5 s in reserve.
    /// [`Drain::serve`] logs it as a warning; with another server, do so yourself.
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

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// The states of a drain, from [`Drain::watch`]. Ends after [`State::Dead`].
#[derive(Debug)]
pub struct States {
    states: WatchStream<State>,
    over: bool,
}

impl Stream for States {
    type Item = State;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<State>> {
        if self.over {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut self.states).poll_next(cx);
        if let Poll::Ready(Some(State::Dead)) = polled {
            self.over = true;
        }
        polled
    }
}
