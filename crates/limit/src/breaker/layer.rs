//! The layer.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

use super::{
    BreakerState,
    circuit::{Circuit, Settings},
};
use crate::{KeyBy, table::Table};

/// Refuses requests while too many responses fail, wherever in their body they do.
///
/// | end of the response | counts as |
/// |---|---|
/// | complete, status below 500 | success |
/// | status 500 and above, whatever the end | failure |
/// | an error or panic before the head or in the body, a timeout, a body that is too short or lacks its last record | failure |
/// | gRPC status of a server error, such as `INTERNAL` or `UNAVAILABLE` | failure; others: success |
/// | the client disconnected; a drain ended the stream; a layer inside refused the request | nothing |
///
/// The circuit opens if, of at least [`minimum`](Self::minimum) ends within the [`window`](Self::window), the
/// [`failure_share`](Self::failure_share) has failed. For [`open_for`](Self::open_for), requests are refused with 503 and
/// `Retry-After`. Then it is half open: some requests pass as [`probes`](Self::probes), each until the end of its body. If
/// all succeed, the circuit closes; if one fails, it opens again. A probe whose client leaves is given to another request. If
/// all probes are streams that go on for a whole window, and one has begun to answer, the circuit closes too.
///
/// A layer is a handle: clones share the circuit. A setter creates a new one.
///
/// ```
/// use std::time::Duration;
/// use tower_stream_limit::{BreakerLayer, BreakerState};
///
/// let breaker = BreakerLayer::new().failure_share(0.5).minimum(20).window(Duration::from_secs(10));
/// assert_eq!(breaker.state(), BreakerState::Closed);
/// breaker.force_open();
/// assert_eq!(breaker.state(), BreakerState::Open);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until a service is given to it"]
pub struct BreakerLayer {
    pub(super) breaker: Option<Arc<Breaker>>,
}

/// The state that the clones of a layer share.
pub(super) struct Breaker {
    config: Config,
    one: Arc<Circuit>,
    keys: Option<Table<Circuit>>,
    refused: AtomicU64,
}

#[derive(Clone, Debug)]
struct Config {
    settings: Settings,
    key: Option<KeyBy>,
    keys: usize,
}

/// The figures of a breaker, by [`BreakerLayer::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerStats {
    /// Circuits that are closed, each of its key. 1 or 0 without a key.
    pub closed: usize,
    /// Circuits that are open.
    pub open: usize,
    /// Circuits that are half open.
    pub half_open: usize,
    /// How often a circuit that is known has opened.
    pub opened: u64,
    /// Requests refused since the start.
    pub refused: u64,
}

impl BreakerLayer {
    /// Creates a breaker that opens if half of at least 20 responses within 10 s have failed, for 10 s, and then admits 3
    /// probes.
    pub fn new() -> Self {
        Self::of(Config {
            settings: Settings {
                name: "default",
                failure_share: 0.5,
                minimum: 20,
                window: Duration::from_secs(10),
                open_for: Duration::from_secs(10),
                probes: 3,
            },
            key: None,
            keys: 1024,
        })
    }

    /// A disabled layer of the same type.
    pub const fn off() -> Self {
        Self { breaker: None }
    }

    /// Sets the name in log lines and metrics. Default: `default`.
    pub fn name(self, name: &'static str) -> Self {
        self.set(|config| config.settings.name = name)
    }

    /// Sets the share of failures, of all ends that count, at which the circuit opens: between 0 and 1. Default: 0.5. At 0,
    /// one failure is enough, as soon as there are [`minimum`](Self::minimum) ends.
    pub fn failure_share(self, share: f64) -> Self {
        self.set(|config| config.settings.failure_share = share.clamp(0.0, 1.0))
    }

    /// Sets how many ends there must be within the window before the circuit may open. Default: 20. Zero is one.
    pub fn minimum(self, ends: u32) -> Self {
        self.set(|config| config.settings.minimum = ends.max(1))
    }

    /// Sets the time over which ends are counted; it slides in tenths. Default: 10 s; at least 10 ms.
    pub fn window(self, window: Duration) -> Self {
        let window = window.clamp(Duration::from_millis(10), LONGEST);
        self.set(|config| config.settings.window = window)
    }

    /// Sets for how long the circuit stays open before it admits probes. Default: 10 s.
    pub fn open_for(self, time: Duration) -> Self {
        self.set(|config| config.settings.open_for = time.min(LONGEST))
    }

    /// Sets how many probes a half-open circuit admits. Default: 3. Zero is one.
    pub fn probes(self, probes: u32) -> Self {
        self.set(|config| config.settings.probes = probes.max(1))
    }

    /// Has one circuit for each key, such as the upstream that answers. Default: one circuit. At most 1,024 keys have their
    /// own; those that come later share one while so many are in use.
    pub fn key(self, key: KeyBy) -> Self {
        self.set(|config| config.key = Some(key))
    }

    /// The state of the circuit; with a [key](Self::key), that of the worst one. Closed for a layer that is off.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match self.stats() {
            stats if stats.open > 0 => BreakerState::Open,
            stats if stats.half_open > 0 => BreakerState::HalfOpen,
            _ => BreakerState::Closed,
        }
    }

    /// Opens the circuit, or those of all keys that are known now, until [`reset`](Self::reset).
    pub fn force_open(&self) {
        self.each(Circuit::force_open);
    }

    /// Closes the circuit, or those of all keys, and forgets the ends so far.
    pub fn reset(&self) {
        self.each(Circuit::reset);
    }

    /// The figures of the breaker now. All zero for a layer that is off.
    #[must_use]
    pub fn stats(&self) -> BreakerStats {
        let mut stats = BreakerStats::default();
        self.each(|circuit| {
            match circuit.state() {
                BreakerState::Closed => stats.closed += 1,
                BreakerState::Open => stats.open += 1,
                BreakerState::HalfOpen => stats.half_open += 1,
            }
            stats.opened += circuit.opened();
        });
        if let Some(breaker) = &self.breaker {
            stats.refused = breaker.refused.load(Ordering::Relaxed);
        }
        stats
    }

    fn each(&self, mut visit: impl FnMut(&Circuit)) {
        let Some(breaker) = &self.breaker else {
            return;
        };
        match &breaker.keys {
            Some(keys) => keys.each(visit),
            None => visit(&breaker.one),
        }
    }

    fn of(config: Config) -> Self {
        let new = || Circuit::new(config.settings);
        let keys = config
            .key
            .is_some()
            .then(|| Table::new(config.keys, config.settings.window, new));
        Self {
            breaker: Some(Arc::new(Breaker {
                one: Arc::new(new()),
                keys,
                refused: AtomicU64::new(0),
                config,
            })),
        }
    }

    fn set(self, change: impl FnOnce(&mut Config)) -> Self {
        let Some(breaker) = self.breaker else {
            return self;
        };
        let mut config = breaker.config.clone();
        change(&mut config);
        Self::of(config)
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn get_name(&self) -> &'static str {
        let breaker = self.breaker.as_ref();
        breaker.map_or("off", |breaker| breaker.config.settings.name)
    }
}

const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Breaker {
    #[inline]
    pub(super) fn circuit<B>(&self, request: &mut http::Request<B>) -> Arc<Circuit> {
        match (&self.keys, &self.config.key) {
            (Some(keys), Some(by)) => {
                keys.get(by.key(request), || Circuit::new(self.config.settings))
            }
            _ => Arc::clone(&self.one),
        }
    }

    pub(super) fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Default for BreakerLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}
