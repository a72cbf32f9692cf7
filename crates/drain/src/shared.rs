//! State shared by the handles, layers and servers of one drain.

use std::{
    fmt,
    pin::pin,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tower_stream_core::{Cause, Exchange, FaultKind};

use crate::{
    Phase, State, Stats,
    admission::{Admission, Word},
    farewell::message,
    schedule::Schedule,
    settings::{FOR_EVER, Settings},
};

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) admission: Admission,
    /// `None` until the drain is started. A second start may bring its deadline forward.
    schedule: watch::Sender<Option<Schedule>>,
    /// Notified when the count falls to 0, a server ends, or the drain is dead.
    ended: Notify,
    /// Number of accept loops that still have connections.
    servers: AtomicUsize,
    /// Number of futures of [`dead`](Self::dead), which let the drain settle.
    waiting: AtomicUsize,
    /// Whether a task listens for SIGTERM and SIGINT.
    #[cfg(feature = "signals")]
    pub(crate) signals: std::sync::atomic::AtomicBool,
    figures: Figures,
}

#[derive(Default)]
struct Figures {
    served: AtomicU64,
    refused: AtomicU64,
    /// Number of streams that were ended with a last event, including those that are still in flight.
    farewells: AtomicU64,
    ended_early: AtomicU64,
    aborted: AtomicU64,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            admission: Admission::new(),
            schedule: watch::Sender::new(None),
            ended: Notify::new(),
            servers: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            #[cfg(feature = "signals")]
            signals: std::sync::atomic::AtomicBool::new(false),
            figures: Figures::default(),
        }
    }

    /// Starts the drain so that it ends at the latest `limit` from now, or brings its deadline forward.
    pub(crate) fn start(&self, limit: Option<Duration>) {
        self.start_advertising(self.settings.advertise, limit);
    }

    /// Like [`start`](Self::start), with another duration of the advertise phase.
    pub(crate) fn start_advertising(&self, advertise: Duration, limit: Option<Duration>) {
        let now = Instant::now();
        let limits = [limit, self.settings.deadline];
        let limit = limits.into_iter().flatten().min();
        let deadline = limit.and_then(|limit| now.checked_add(limit));
        let mut before = None;
        self.schedule.send_if_modified(|schedule| {
            let started = match schedule {
                None => now,
                Some(known) => {
                    let sooner = known.deadline.is_none_or(|at| deadline < Some(at));
                    if deadline.is_none() || !sooner {
                        return false;
                    }
                    known.started
                }
            };
            let in_flight = self.admission.load().count();
            let advertised = match schedule {
                // A second start never delays the close.
                Some(known) => known.close,
                None => started + advertise.min(FOR_EVER),
            };
            let new = Schedule::new(
                &self.settings,
                started,
                advertised,
                deadline,
                now,
                in_flight,
            );
            *schedule = Some(new);
            // Set before the streams are woken, so that each of them sees that the drain has started. A stream that
            // sees this earlier waits for the lock of the schedule.
            before = Some(self.admission.advance(State::Draining(Phase::Advertise)));
            true
        });
        if let Some(before) = before {
            self.log(before, State::Draining(Phase::Advertise));
        }
    }

    /// `None` before the start.
    pub(crate) fn schedule(&self) -> Option<Schedule> {
        *self.schedule.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Schedule>> {
        self.schedule.subscribe()
    }

    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.admission.load().state().is_draining()
    }

    /// The current state, by the clock.
    #[inline]
    pub(crate) fn state(&self) -> State {
        match self.admission.load().state() {
            State::Draining(_) => self.catch_up(),
            state => state,
        }
    }

    /// Advances to the state that the clock has reached. The first caller that notices does this.
    #[cold]
    fn catch_up(&self) -> State {
        let Some(schedule) = self.schedule() else {
            // The schedule is published before the state advances.
            return State::Draining(Phase::Advertise);
        };
        let now = Instant::now();
        if now < schedule.close {
            return State::Draining(Phase::Advertise);
        }
        let word = self.advance(State::Draining(Phase::Close));
        let finished = word.count() == 0 && self.servers.load(Ordering::Acquire) == 0;
        let deadline = schedule.deadline;
        let latest = deadline.and_then(|deadline| deadline.checked_add(self.settings.settle));
        // A task that waits in `dead` lets the drain settle. If the process got no CPU around the deadline, its last
        // events are late, and the clock alone would abort them.
        let unattended = self.waiting.load(Ordering::Acquire) == 0;
        if finished || (unattended && latest.is_some_and(|latest| latest <= now)) {
            self.advance(State::Dead);
            return State::Dead;
        }
        word.state().max(State::Draining(Phase::Close))
    }

    /// Advances to `state`. Returns the word before.
    fn advance(&self, state: State) -> Word {
        let before = self.admission.advance(state);
        if before.state() < state && state == State::Dead {
            self.figures
                .aborted
                .store(before.count(), Ordering::Relaxed);
            self.ended.notify_waiters();
        }
        self.log(before, state);
        before
    }

    fn log(&self, before: Word, state: State) {
        if before.state() < state {
            tracing::info!(%state, in_flight = before.count(), "drain");
        }
    }

    /// Admits and counts a request, or refuses it; see [`Admission::enter`].
    #[inline]
    pub(crate) fn enter(&self) -> Result<(), Option<Word>> {
        self.state();
        self.admission.enter().map(drop)
    }

    /// Counts one request or token less. Returns the word after it.
    #[inline]
    pub(crate) fn leave(&self) -> Word {
        // Updated before the count: a request that ends after the drain is dead by the clock counts as aborted.
        self.state();
        let word = self.admission.leave();
        self.left(word);
        word
    }

    /// Counts the end of a request in one figure. Requests that were in flight at `Dead` are already counted as
    /// aborted.
    #[inline]
    pub(crate) fn leave_request(&self, ended_early: bool) {
        self.state();
        let word = self.admission.leave();
        if word.state() != State::Dead {
            let figure = match ended_early {
                true => &self.figures.ended_early,
                false => &self.figures.served,
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
        self.figures.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(word) = word {
            self.left(word);
        }
    }

    /// Returns whether a request that arrives too late is still served because its client could not know: for 2 s after
    /// the close, or a quarter of the time to the deadline if that is less. A busy machine may need that long to read
    /// the request.
    pub(crate) fn is_lenient(&self) -> bool {
        let Some(schedule) = self.schedule() else {
            return true;
        };
        let at_most = Duration::from_secs(2);
        let quarter = |deadline: Instant| (deadline - schedule.close) / 4;
        let window = schedule
            .deadline
            .map_or(at_most, |at| quarter(at).min(at_most));
        self.state() != State::Dead && schedule.close.elapsed() < window
    }

    /// Ends a stream. Returns the cause to fail with if its format has no last event. The cause is recorded before
    /// anything is dropped; if another cause is already known, that one wins and the drain has not ended the stream.
    #[cold]
    pub(crate) fn farewell(&self, exchange: &Exchange, retry: Duration) -> Cause {
        let cause = Cause::new(FaultKind::Drain, message::MESSAGE).with_retry_after(retry);
        if exchange.record(cause.clone()) {
            self.figures.farewells.fetch_add(1, Ordering::Relaxed);
        }
        cause
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.state();
        let figure = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Stats {
            state,
            in_flight: self.admission.load().count(),
            served: figure(&self.figures.served),
            refused: figure(&self.figures.refused),
            ended_early: figure(&self.figures.ended_early),
            aborted: figure(&self.figures.aborted),
        }
    }

    /// Registers an accept loop. The drain is not dead before it has ended.
    pub(crate) fn server_begins(&self) {
        self.servers.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn server_ends(&self) {
        self.servers.fetch_sub(1, Ordering::AcqRel);
        self.ended.notify_waiters();
    }

    /// Returns whether a server of this drain is running, see [`Drain::server`](crate::Drain::server).
    pub(crate) fn has_server(&self) -> bool {
        self.servers.load(Ordering::Acquire) > 0
    }

    /// Waits for a time of the schedule, which a second start may bring forward.
    pub(crate) async fn until(&self, moment: impl Fn(&Schedule) -> Option<Instant>) {
        let mut schedule = self.schedule.subscribe();
        loop {
            let at = schedule.borrow_and_update().as_ref().and_then(&moment);
            if at.is_some_and(|at| at <= Instant::now()) {
                return;
            }
            let reached = async {
                match at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = reached => return,
                // Fails only if the sender is dropped, which is in `self`.
                _ = schedule.changed() => {}
            }
        }
    }

    pub(crate) async fn started(&self) {
        self.until(|schedule| Some(schedule.started)).await;
    }

    /// Waits until the drain is dead, and advances it to that state. The drain has no task of its own.
    pub(crate) async fn dead(&self) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting);
        self.until(|schedule| Some(schedule.close)).await;
        let settled = async {
            self.until(|schedule| schedule.deadline).await;
            self.settle().await;
        };
        tokio::select! {
            biased;
            () = self.when(|| self.state() == State::Dead) => {}
            () = settled => drop(self.advance(State::Dead)),
        }
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn idle(&self) {
        self.when(|| self.admission.load().count() == 0).await;
    }

    /// Waits until `holds` returns true. It is checked whenever something ends.
    async fn when(&self, holds: impl Fn() -> bool) {
        self.admission.watch();
        let mut ended = pin!(self.ended.notified());
        loop {
            // Enabled before the check, so that an end in between is not missed.
            ended.as_mut().enable();
            if holds() {
                return;
            }
            ended.as_mut().await;
            ended.set(self.ended.notified());
        }
    }

    /// Waits until the last events have been sent: until nothing has ended for a while, and each stream that was ended
    /// is dropped. An error writer outside may keep a stream for a moment, so that its last record is flushed before it
    /// fails.
    ///
    /// The while is counted in wake-ups of this task, not by the clock. A last event leaves within one poll of its
    /// connection. If the process gets no CPU for 50 ms, nothing has become quiet: these polls are late, and so are the
    /// wake-ups of this task.
    async fn settle(&self) {
        const QUIET_TICKS: u32 = 5;
        const TICK: Duration = Duration::from_millis(5);
        let mut at_most = pin!(sleep(self.settings.settle));
        let mut seen = self.figures.progress();
        let mut quiet = 0;
        while quiet < QUIET_TICKS || self.figures.has_open_farewells() {
            tokio::select! {
                biased;
                () = at_most.as_mut() => return,
                () = sleep(TICK) => {}
            }
            let now = self.figures.progress();
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
    }
}

/// Counts a future of [`Shared::dead`] until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Figures {
    /// A counter that grows with each last event, end and refusal.
    fn progress(&self) -> u64 {
        let figures = [
            &self.farewells,
            &self.ended_early,
            &self.served,
            &self.refused,
        ];
        let figures = figures.map(|figure| figure.load(Ordering::Relaxed));
        figures.iter().sum()
    }

    /// Returns whether a body that was ended with a last event is still held.
    fn has_open_farewells(&self) -> bool {
        self.farewells.load(Ordering::Relaxed) > self.ended_early.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
