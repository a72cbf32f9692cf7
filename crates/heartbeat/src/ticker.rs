//! One timer for all idle streams of a layer.
//!
//! A timer of tokio's for each stream takes more memory and more time than the rest of a heartbeat. A heartbeat need not
//! be exact, so all streams of a layer share one task that counts time in ticks and wakes the streams that are due.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    task::Waker,
};

use parking_lot::Mutex;
use slab::Slab;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::layer::Config;

/// Number of ticks in an interval.
pub(crate) const TICKS: u32 = 8;

/// The time of a layer in ticks, and the streams that wait for a tick.
#[derive(Debug, Default)]
pub(crate) struct Ticker {
    /// Number of ticks so far. It does not advance while no stream waits, and wraps around.
    now: AtomicU32,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Whether the task runs.
    runs: bool,
    alarms: Slab<Alarm>,
}

/// One stream that has waited.
#[derive(Debug)]
struct Alarm {
    due: u32,
    /// `None` once it was called.
    waker: Option<Waker>,
}

/// The place of a stream among those that wait: its key, plus one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(NonZeroUsize);

impl Place {
    fn of(key: usize) -> Self {
        Self(NonZeroUsize::MIN.saturating_add(key))
    }

    fn key(self) -> usize {
        self.0.get() - 1
    }
}

impl Ticker {
    #[inline(always)]
    pub(crate) fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// Calls this waker when the time is `due`. Returns the place of the stream, and whether the task has to be
    /// started.
    pub(crate) fn set(&self, place: Option<Place>, due: u32, waker: Waker) -> (Place, bool) {
        let alarm = Alarm {
            due,
            waker: Some(waker),
        };
        let mut waiting = self.waiting.lock();
        let starts = !std::mem::replace(&mut waiting.runs, true);
        let (place, before) = match place {
            Some(place) => {
                let before = std::mem::replace(&mut waiting.alarms[place.key()], alarm);
                (place, Some(before))
            }
            None => (Place::of(waiting.alarms.insert(alarm)), None),
        };
        drop(waiting);
        // A waker may run code of its own, so it is dropped outside of the lock.
        drop(before);
        (place, starts)
    }

    /// The stream in this place has ended.
    pub(crate) fn remove(&self, place: Place) {
        let removed = self.waiting.lock().alarms.remove(place.key());
        drop(removed);
    }

    /// Advances the time, and wakes the streams that are due. Returns whether any stream is left.
    fn advance(&self, ticks: u32) -> bool {
        /// How many streams are looked at under one lock.
        const PART: usize = 1_024;

        let now = self.now().wrapping_add(ticks);
        self.now.store(now, Ordering::Relaxed);
        let mut due = Vec::new();
        let mut from = 0;
        loop {
            let mut waiting = self.waiting.lock();
            if waiting.alarms.is_empty() {
                waiting.runs = false;
                return false;
            }
            let end = waiting.alarms.capacity();
            for key in from..end.min(from + PART) {
                if let Some(alarm) = waiting.alarms.get_mut(key)
                    && is_reached(alarm.due, now)
                {
                    due.extend(alarm.waker.take());
                }
            }
            drop(waiting);
            due.drain(..).for_each(Waker::wake);
            from += PART;
            if from >= end {
                return true;
            }
        }
    }
}

/// A layer with other settings has a time of its own.
impl Clone for Ticker {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Returns whether a tick has come.
#[inline(always)]
pub(crate) fn is_reached(due: u32, now: u32) -> bool {
    // Both wrap around.
    now.wrapping_sub(due) <= u32::MAX / 2
}

/// Starts the task that counts the ticks of a layer, until no stream waits.
///
/// # Panics
///
/// Panics outside of a tokio runtime with its timer enabled.
pub(crate) fn start(config: &Arc<Config>) {
    let layer = OfLayer(Some(Arc::downgrade(config)));
    let tick = config.interval / TICKS;
    let mut ticks = interval_at(Instant::now() + tick, tick);
    // After a stop of the whole process, one tick and not one for each that was missed.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tokio::spawn(layer.count(ticks));
}

/// The layer whose ticks a task counts. Empty when the task has ended by itself.
struct OfLayer(Option<Weak<Config>>);

impl OfLayer {
    async fn count(mut self, mut ticks: Interval) {
        while let Some(weak) = &self.0 {
            ticks.tick().await;
            match weak.upgrade() {
                Some(config) if config.ticker.advance(1) => {}
                _ => self.0 = None,
            }
        }
    }
}

impl Drop for OfLayer {
    /// If the task is dropped with its runtime, the streams of other runtimes go on. They are due early, and the first
    /// one that waits again starts another task.
    fn drop(&mut self) {
        if let Some(config) = self.0.as_ref().and_then(Weak::upgrade) {
            config.ticker.waiting.lock().runs = false;
            config.ticker.advance(TICKS);
        }
    }
}
