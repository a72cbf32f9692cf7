//! The streams that may have to be woken.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
};

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;

use super::Policy;
use crate::drain::Shared;

/// Enough that streams which begin at the same time on all cores rarely meet.
const SHARDS: usize = 16;

/// Every response of one drain that has had to wait: for its head, or for its next frame.
///
/// A lock is taken when a stream registers and when it goes, never when it is polled or woken.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// the deadline has passed
    over: AtomicBool,
    /// how many lots are called: those of the part of the early window that has passed
    called: AtomicU32,
    /// the same for the streams that run to the deadline, of which many begin to end a little before it
    last_called: AtomicU32,
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
    lot: Lot,
    /// `None`: it ends at the deadline, never before
    policy: Option<Policy>,
    /// it was woken because its lot is called
    called: AtomicBool,
}

/// Where in the window of its policy a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lot(u32);

impl Lot {
    /// Anywhere in the window.
    pub(crate) fn draw() -> Self {
        Self(fastrand::u32(..u32::MAX))
    }
}

impl Streams {
    /// Whether every stream has to end now.
    #[inline]
    pub(crate) fn are_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Whether this stream has to end at the next boundary.
    #[inline]
    pub(crate) fn calls(&self, policy: Policy, lot: Lot) -> bool {
        lot.0 < self.called(policy).load(Ordering::Acquire)
    }

    #[inline]
    fn called(&self, policy: Policy) -> &AtomicU32 {
        match policy {
            Policy::EndEarly => &self.called,
            Policy::RunToDeadline => &self.last_called,
        }
    }

    /// How many streams that may end before the deadline have had to wait and are not over.
    pub(crate) fn waiting(&self) -> usize {
        let of = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            let slots = shard.slots.iter().flatten();
            slots.filter(|slot| slot.policy.is_some()).count()
        };
        self.shards.iter().map(of).sum()
    }

    /// The deadline: ends all of them, and whoever comes later.
    pub(crate) fn end_all(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.wake(|_| true);
    }

    /// Ends those of this policy whose lot lies in this part of the window.
    pub(crate) fn end_part(&self, policy: Policy, part: f64) {
        // truncated, and no more than all
        let called = (f64::from(u32::MAX) * part) as u32;
        self.called(policy).fetch_max(called, Ordering::SeqCst);
        self.wake(|slot| {
            slot.policy == Some(policy)
                && self.calls(policy, slot.lot)
                && !slot.called.swap(true, Ordering::AcqRel)
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
    pub(crate) fn new(shared: Arc<Shared>, policy: Option<Policy>, lot: Lot) -> Self {
        let slot = Arc::new(Slot {
            waker: AtomicWaker::new(),
            lot,
            policy,
            called: AtomicBool::new(false),
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
