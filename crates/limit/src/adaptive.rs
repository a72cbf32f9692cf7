//! A limit that follows the time to first chunk.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::slots::Slots;

/// Limits how many streams are between their admission and their first chunk, and adapts this limit to the time that they
/// take: a server that takes more streams than it can begin answers all of them late. The duration of a stream says nothing,
/// because a stream lasts as long as it has something to say; for the number of open streams, there is
/// [`streams`](crate::StreamLimitLayer::streams).
///
/// The layer learns the time of the unloaded server from the requests that are admitted while few others wait for their first
/// chunk: at most a quarter of the limit. In each window it compares the median of all with that: while it is within the
/// tolerance (or 1 ms) and the limit is used, the limit grows by half of its square root; otherwise it shrinks in proportion,
/// at most to a half. This is the gradient of Netflix's concurrency-limits and of Envoy's adaptive concurrency filter, without
/// their probes, which would have to wait until long streams end.
///
/// Error responses are not measured. A client that leaves before the first chunk counts with the time that it has waited, if
/// that is longer than the tolerance allows.
///
/// ```
/// use tower_stream_limit::{Adaptive, StreamLimitLayer};
///
/// let limit = StreamLimitLayer::new().streams(10_000).adaptive(Adaptive::between(4, 1_000));
/// assert_eq!(limit.stats().adaptive_limit, 20);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Adaptive {
    least: usize,
    most: usize,
    initial: usize,
    tolerance: f64,
    window: Duration,
}

impl Adaptive {
    /// A limit between these two, at least 1. It starts at 20, or the nearest that is allowed.
    #[must_use]
    pub fn between(least: usize, most: usize) -> Self {
        let least = least.max(1);
        let most = most.max(least);
        Self {
            least,
            most,
            initial: 20.clamp(least, most),
            tolerance: 1.5,
            window: Duration::from_millis(250),
        }
    }

    /// Sets the limit at the start.
    #[must_use]
    pub fn initial(mut self, streams: usize) -> Self {
        self.initial = streams.clamp(self.least, self.most);
        self
    }

    /// Sets how many times as long as on the unloaded server the time to first chunk may be. Default: 1.5; at least 1.
    #[must_use]
    pub fn tolerance(mut self, times: f64) -> Self {
        self.tolerance = times.max(1.0);
        self
    }

    /// Sets for how long the limit stays the same. A window lasts at least until 10 first chunks were measured. Default:
    /// 250 ms.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }
}

/// The measurements of an adaptive limit.
#[derive(Debug)]
pub(crate) struct Gradient {
    settings: Adaptive,
    /// Streams that were admitted and have no first chunk.
    pub(crate) awaited: Slots,
    state: Mutex<State>,
}

/// A stream whose first chunk is awaited.
#[derive(Debug)]
pub(crate) struct Awaited {
    since: Instant,
    /// Whether few others were awaited.
    is_light: bool,
}

#[derive(Debug)]
struct State {
    limit: f64,
    /// The time to first chunk of the unloaded server, in seconds.
    unloaded: Option<f64>,
    light: Vec<f64>,
    window: Instant,
    samples: Vec<f64>,
    count: usize,
}

const FEWEST: usize = 10;
const FEWEST_LIGHT: usize = 5;
/// Of a window with more samples, the last ones are used.
const KEPT: usize = 100;
/// In seconds. A difference below this says nothing about the load.
const NOISE: f64 = 0.001;

impl Gradient {
    pub(crate) fn new(settings: Adaptive) -> Self {
        Self {
            state: Mutex::new(State {
                limit: settings.initial as f64,
                unloaded: None,
                light: Vec::new(),
                window: Instant::now(),
                samples: Vec::new(),
                count: 0,
            }),
            awaited: Slots::new(settings.initial),
            settings,
        }
    }

    /// A stream is admitted.
    pub(crate) fn begin(&self) -> Awaited {
        let others = self.awaited.taken().saturating_sub(1);
        Awaited {
            since: Instant::now(),
            is_light: others * 4 <= self.awaited.limit(),
        }
    }

    /// A stream has given its first chunk, or has ended without (`begun` is false): its time would have been at least this.
    /// It still counts as awaited. `waiting`: the requests that wait to be admitted.
    pub(crate) fn first_chunk(&self, awaited: &Awaited, begun: bool, waiting: usize) {
        let now = Instant::now();
        let waited = (now - awaited.since).as_secs_f64();
        let mut state = self.state.lock();
        if begun && (awaited.is_light || self.awaited.limit() == self.settings.least) {
            state.learn(waited);
        }
        if begun || self.allowed(&state).is_some_and(|allowed| waited > allowed) {
            state.push(waited);
            self.end_window(&mut state, now, waiting);
        }
    }

    fn allowed(&self, state: &State) -> Option<f64> {
        let unloaded = state.unloaded?;
        Some((unloaded * self.settings.tolerance).max(unloaded + NOISE))
    }

    fn end_window(&self, state: &mut State, now: Instant, waiting: usize) {
        let Adaptive {
            least,
            most,
            window,
            ..
        } = self.settings;
        if state.count < FEWEST || now - state.window < window {
            return;
        }
        let sample = median(&mut state.samples);
        state.samples.clear();
        (state.count, state.window) = (0, now);
        state.unloaded = state.unloaded.map(|time| time.min(sample));
        let Some(allowed) = self.allowed(state) else {
            return;
        };
        let gradient = (allowed / sample.max(NOISE)).clamp(0.5, 1.0);
        let wanted = self.awaited.taken() + waiting;
        if gradient < 1.0 {
            state.limit = (state.limit * gradient).min(state.limit - 1.0);
        } else if wanted * 2 > self.awaited.limit() {
            state.limit += (state.limit.sqrt() / 2.0).max(1.0);
        }
        state.limit = state.limit.clamp(least as f64, most as f64);
        self.awaited.set_limit(state.limit as usize);
    }
}

impl State {
    fn push(&mut self, sample: f64) {
        match self.samples.get_mut(self.count % KEPT) {
            Some(old) => *old = sample,
            None => self.samples.push(sample),
        }
        self.count += 1;
    }

    /// Takes the time of a stream on an unloaded server. A lower one counts at once.
    fn learn(&mut self, sample: f64) {
        self.light.push(sample);
        if self.light.len() < FEWEST_LIGHT {
            return;
        }
        let light = median(&mut self.light);
        self.light.clear();
        let known = self.unloaded.filter(|known| *known < light);
        self.unloaded = Some(known.map_or(light, |known| known + (light - known) * 0.3));
    }
}

fn median(samples: &mut [f64]) -> f64 {
    let middle = samples.len() / 2;
    *samples.select_nth_unstable_by(middle, f64::total_cmp).1
}
