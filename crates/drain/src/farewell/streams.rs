//! The streams that may have to be woken.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;

use super::Policy;
use crate::drain::Shared;

/// Enough that streams which begin at the same time on all cores rarely meet.
const SHARDS: usize = 16;

/// Every stream of one drain that waits for its next frame, or may end early.
///
/// A lock is taken when a stream registers and when it goes, never when it is polled or woken.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// the deadline has passed
    over: AtomicBool,
    next: AtomicUsize,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    slots: Vec<Option<Arc<Slot>>>,
    free: Vec<usize>,
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Slot {
    waker: AtomicWaker,
    /// its part of the window is over: set for streams that may end early only
    early: AtomicBool,
    /// where in the window it ends, from 0 to 1; `None` for a stream that runs to the deadline
    lot: Option<f64>,
}

impl Streams {
    /// Whether every stream has to end now.
    #[inline]
    pub(crate) fn are_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The deadline: ends all of them, and whoever comes later.
    pub(crate) fn end_all(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.wake(|_| true);
    }

    /// Ends those whose lot lies in this part of the window.
    pub(crate) fn end_early(&self, part: f64) {
        self.wake(|slot| {
            slot.lot.is_some_and(|lot| lot <= part) && !slot.early.swap(true, Ordering::AcqRel)
        });
    }

    fn wake(&self, which: impl Fn(&Slot) -> bool) {
        let mut woken = Vec::new();
        for shard in &self.shards {
            let slots = shard.lock();
            woken.extend(
                slots
                    .slots
                    .iter()
                    .flatten()
                    .filter(|slot| which(slot))
                    .cloned(),
            );
            drop(slots);
            // not under the lock: a waker may drop the last of a task, and with it a stream of this shard
            woken.drain(..).for_each(|slot| slot.waker.wake());
        }
    }
}

/// A stream's place among the others, until it is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    shard: usize,
    index: usize,
}

impl Registration {
    pub(crate) fn new(shared: Arc<Shared>, policy: Policy) -> Self {
        let slot = Arc::new(Slot {
            waker: AtomicWaker::new(),
            early: AtomicBool::new(false),
            lot: (policy == Policy::EndEarly).then(fastrand::f64),
        });
        let shard = shared.streams.next.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut locked = shared.streams.shards[shard].lock();
        let index = match locked.free.pop() {
            Some(index) => {
                locked.slots[index] = Some(Arc::clone(&slot));
                index
            }
            None => {
                locked.slots.push(Some(Arc::clone(&slot)));
                locked.slots.len() - 1
            }
        };
        drop(locked);
        Self {
            shared,
            slot,
            shard,
            index,
        }
    }

    /// Whether its part of the early window is over.
    #[inline]
    pub(crate) fn ends_early(&self) -> bool {
        self.slot.early.load(Ordering::Acquire)
    }

    pub(crate) fn wake_with(&self, waker: &std::task::Waker) {
        self.slot.waker.register(waker);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut shard = self.shared.streams.shards[self.shard].lock();
        shard.slots[self.index] = None;
        shard.free.push(self.index);
    }
}
