//! One circuit: its window of ends, and its state.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::BreakerState;
use crate::table::Entry;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) name: &'static str,
    pub(crate) failure_share: f64,
    pub(crate) minimum: u32,
    pub(crate) window: Duration,
    pub(crate) open_for: Duration,
    pub(crate) probes: u32,
}

/// The circuit of a breaker, or of one of its keys.
#[derive(Debug)]
pub(crate) struct Circuit {
    settings: Settings,
    /// `generation << 2 | state`: a closed circuit admits a request by this word alone.
    word: AtomicU64,
    inner: Mutex<Inner>,
    opened: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    /// Increases with each change of state. An end counts only in the state in which its request began.
    generation: u64,
    window: Window,
}

#[derive(Debug)]
enum Phase {
    Closed,
    /// `None`: until it is reset.
    Open(Option<Instant>),
    HalfOpen(Probes),
}

#[derive(Debug)]
struct Probes {
    since: Instant,
    free: u32,
    succeeded: u32,
    /// Whether a probe has a response head that is no failure.
    answered: bool,
}

/// A request that a circuit has admitted. Dropping it counts its end.
#[derive(Debug)]
pub(crate) struct Call {
    circuit: Arc<Circuit>,
    generation: u64,
    is_probe: bool,
    /// `None`: the end says nothing about what answers the requests.
    pub(crate) failed: Option<bool>,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.circuit
            .end(self.generation, self.is_probe, self.failed);
    }
}

impl Call {
    /// The response head of a probe has arrived and is no failure.
    pub(crate) fn answered(&self) {
        if self.is_probe {
            self.circuit.answered(self.generation);
        }
    }
}

impl Circuit {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            word: AtomicU64::new(word(0, BreakerState::Closed)),
            inner: Mutex::new(Inner {
                phase: Phase::Closed,
                generation: 0,
                window: Window::new(settings.window),
            }),
            opened: AtomicU64::new(0),
        }
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.word.load(Ordering::Acquire) & 3 {
            0 => BreakerState::Closed,
            1 => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        }
    }

    /// How often it has opened.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Admits a request, or returns the time after which one may be admitted.
    #[inline]
    pub(crate) fn begin(self: &Arc<Self>) -> Result<Call, Duration> {
        let word = self.word.load(Ordering::Acquire);
        if word & 3 == 0 {
            return Ok(self.call(word >> 2, false));
        }
        self.begin_unless_open()
    }

    #[cold]
    fn begin_unless_open(self: &Arc<Self>) -> Result<Call, Duration> {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        if let Phase::Open(until) = inner.phase {
            let Some(until) = until else {
                return Err(self.settings.open_for);
            };
            if now < until {
                return Err(until - now);
            }
            self.enter(
                &mut inner,
                Phase::HalfOpen(Probes {
                    since: now,
                    free: self.settings.probes,
                    succeeded: 0,
                    answered: false,
                }),
            );
        }
        let generation = inner.generation;
        let Phase::HalfOpen(probes) = &mut inner.phase else {
            return Ok(self.call(generation, false));
        };
        if let Some(free) = probes.free.checked_sub(1) {
            probes.free = free;
            return Ok(self.call(generation, true));
        }
        // The probes may be streams without an end. None has failed in a whole window, and one has begun to answer.
        let over = probes.since + self.settings.window;
        if now >= over && probes.answered {
            self.enter(&mut inner, Phase::Closed);
            return Ok(self.call(inner.generation, false));
        }
        Err(over
            .saturating_duration_since(now)
            .max(Duration::from_secs(1)))
    }

    fn call(self: &Arc<Self>, generation: u64, is_probe: bool) -> Call {
        Call {
            circuit: Arc::clone(self),
            generation,
            is_probe,
            failed: None,
        }
    }

    fn answered(&self, generation: u64) {
        let mut inner = self.inner.lock();
        if inner.generation == generation
            && let Phase::HalfOpen(probes) = &mut inner.phase
        {
            probes.answered = true;
        }
    }

    fn end(&self, generation: u64, is_probe: bool, failed: Option<bool>) {
        if failed.is_none() && !is_probe {
            return;
        }
        let mut inner = self.inner.lock();
        if inner.generation != generation {
            return;
        }
        let now = Instant::now();
        match (&mut inner.phase, failed) {
            (Phase::Closed, Some(failed)) => {
                inner.window.count(now, failed);
                let Ends { all, failed } = inner.window.ends();
                let share = f64::from(failed) / f64::from(all.max(1));
                if failed > 0
                    && all >= self.settings.minimum
                    && share >= self.settings.failure_share
                {
                    self.open(&mut inner, now);
                }
            }
            (Phase::HalfOpen(_), Some(true)) => self.open(&mut inner, now),
            (Phase::HalfOpen(probes), Some(false)) => {
                probes.succeeded += 1;
                if probes.succeeded >= self.settings.probes {
                    self.enter(&mut inner, Phase::Closed);
                }
            }
            (Phase::HalfOpen(probes), None) => probes.free += 1,
            (Phase::Closed, None) | (Phase::Open(_), _) => {}
        }
    }

    fn open(&self, inner: &mut Inner, now: Instant) {
        let until = now + self.settings.open_for;
        self.enter(inner, Phase::Open(Some(until)));
    }

    fn enter(&self, inner: &mut Inner, phase: Phase) {
        let Ends { all, failed } = inner.window.ends();
        let name = self.settings.name;
        let state = match phase {
            Phase::Closed => {
                tracing::info!(breaker = name, "circuit closed");
                BreakerState::Closed
            }
            Phase::Open(_) => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(breaker = name, failed, all, "circuit opened");
                BreakerState::Open
            }
            Phase::HalfOpen(_) => {
                tracing::info!(breaker = name, "circuit half open");
                BreakerState::HalfOpen
            }
        };
        inner.phase = phase;
        inner.generation += 1;
        inner.window = Window::new(self.settings.window);
        self.word
            .store(word(inner.generation, state), Ordering::Release);
    }

    pub(crate) fn force_open(&self) {
        self.enter(&mut self.inner.lock(), Phase::Open(None));
    }

    pub(crate) fn reset(&self) {
        self.enter(&mut self.inner.lock(), Phase::Closed);
    }
}

const fn word(generation: u64, state: BreakerState) -> u64 {
    generation << 2
        | match state {
            BreakerState::Closed => 0,
            BreakerState::Open => 1,
            BreakerState::HalfOpen => 2,
        }
}

impl Entry for Circuit {
    fn is_fresh(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.window.advance(Instant::now());
        matches!(inner.phase, Phase::Closed) && inner.window.ends().all == 0
    }
}

/// The ends of the last so many seconds, in buckets.
#[derive(Debug)]
struct Window {
    start: Instant,
    width: Duration,
    /// The number of the bucket that was counted into last.
    newest: u64,
    buckets: [Ends; Self::BUCKETS as usize],
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    all: u32,
    failed: u32,
}

impl Window {
    const BUCKETS: u64 = 10;

    fn new(length: Duration) -> Self {
        Self {
            start: Instant::now(),
            width: (length / 10).max(Duration::from_millis(1)),
            newest: 0,
            buckets: Default::default(),
        }
    }

    /// Forgets the buckets that have left the window.
    fn advance(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.start);
        let number = nanos(elapsed) / nanos(self.width);
        let passed = number.saturating_sub(self.newest).min(Self::BUCKETS);
        for step in 1..=passed {
            self.buckets[((self.newest + step) % Self::BUCKETS) as usize] = Ends::default();
        }
        if passed == Self::BUCKETS {
            self.buckets = Default::default();
        }
        self.newest = self.newest.max(number);
    }

    fn count(&mut self, now: Instant, failed: bool) {
        self.advance(now);
        let bucket = &mut self.buckets[(self.newest % Self::BUCKETS) as usize];
        bucket.all = bucket.all.saturating_add(1);
        bucket.failed = bucket.failed.saturating_add(u32::from(failed));
    }

    fn ends(&self) -> Ends {
        let mut sum = Ends::default();
        for bucket in &self.buckets {
            sum.all = sum.all.saturating_add(bucket.all);
            sum.failed = sum.failed.saturating_add(bucket.failed);
        }
        sum
    }
}

/// Enough for 584 years. A division of 128 bits takes ten times as long.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        name: "test",
        failure_share: 0.5,
        minimum: 4,
        window: Duration::from_secs(10),
        open_for: Duration::from_secs(5),
        probes: 2,
    };

    fn circuit() -> Arc<Circuit> {
        Arc::new(Circuit::new(SETTINGS))
    }

    fn end(circuit: &Arc<Circuit>, failed: Option<bool>) {
        circuit.begin().expect("admitted").failed = failed;
    }

    fn opened() -> Arc<Circuit> {
        let circuit = circuit();
        for _ in 0..SETTINGS.minimum {
            end(&circuit, Some(true));
        }
        assert_eq!(circuit.state(), BreakerState::Open);
        circuit
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_by_a_share_of_enough_ends_within_the_window() {
        let circuit = circuit();
        for (failed, state) in [
            (Some(true), BreakerState::Closed),
            (Some(true), BreakerState::Closed),
            (None, BreakerState::Closed),
            (None, BreakerState::Closed),
            (Some(false), BreakerState::Closed),
        ] {
            end(&circuit, failed);
            assert_eq!(circuit.state(), state);
        }
        // The window slides: the first ends are forgotten.
        tokio::time::advance(Duration::from_millis(10_500)).await;
        for failed in [true, false, false] {
            end(&circuit, Some(failed));
        }
        assert_eq!(circuit.state(), BreakerState::Closed);
        end(&circuit, Some(true));
        assert_eq!((circuit.state(), circuit.opened()), (BreakerState::Open, 1));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(circuit.begin().unwrap_err(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn half_open_it_admits_probes_and_takes_back_those_that_say_nothing() {
        let circuit = opened();
        tokio::time::advance(SETTINGS.open_for).await;
        let mut probes: Vec<_> = (0..2).map(|_| circuit.begin().unwrap()).collect();
        assert_eq!(circuit.state(), BreakerState::HalfOpen);
        assert!(circuit.begin().is_err());
        drop(probes.pop());
        let mut again = circuit.begin().expect("a probe was given back");
        again.failed = Some(false);
        drop(again);
        assert!(circuit.begin().is_err(), "a success is not given back");
        probes[0].failed = Some(false);
        probes.clear();
        assert_eq!(circuit.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_fails_opens_it_again_and_older_ends_do_not_count() {
        let circuit = opened();
        tokio::time::advance(SETTINGS.open_for).await;
        let mut other = circuit.begin().unwrap();
        end(&circuit, Some(true));
        assert_eq!((circuit.state(), circuit.opened()), (BreakerState::Open, 2));
        other.failed = Some(false);
        drop(other);
        assert_eq!(circuit.state(), BreakerState::Open);
        circuit.reset();
        let mut old: Vec<_> = (0..9).map(|_| circuit.begin().unwrap()).collect();
        circuit.reset();
        old.iter_mut().for_each(|call| call.failed = Some(true));
        drop(old);
        assert_eq!(circuit.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn probes_without_an_end_close_it_if_one_has_answered() {
        for answered in [false, true] {
            let circuit = opened();
            tokio::time::advance(SETTINGS.open_for).await;
            let probes: Vec<_> = (0..2).map(|_| circuit.begin().unwrap()).collect();
            if answered {
                probes[1].answered();
            }
            tokio::time::advance(SETTINGS.window).await;
            assert_eq!(circuit.begin().is_ok(), answered);
            let closed = circuit.state() == BreakerState::Closed;
            assert_eq!(closed, answered);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn forced_open_it_stays_open_until_it_is_reset() {
        let circuit = circuit();
        circuit.force_open();
        tokio::time::advance(Duration::from_secs(1 << 20)).await;
        assert!(circuit.begin().is_err());
        circuit.reset();
        assert!(circuit.begin().is_ok());
    }
}
