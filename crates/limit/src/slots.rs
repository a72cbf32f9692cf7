//! A number of slots that can be taken, waited for and changed.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// A limit on how many slots are taken at once. A slot that is given back goes to the caller that has waited longest.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Semaphore,
    limit: AtomicUsize,
    /// Slots that are taken, and will not be free again because the limit has fallen below them.
    ///
    /// At any time `taken = limit + surplus - free`, so that a request writes nothing but the semaphore.
    surplus: AtomicUsize,
    waiting: AtomicUsize,
    resizing: Mutex<()>,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self {
            free: Semaphore::new(limit),
            limit: AtomicUsize::new(limit),
            surplus: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            resizing: Mutex::new(()),
        }
    }

    /// Takes a slot if one is free.
    #[inline]
    pub(crate) fn try_take(&self) -> bool {
        self.free.try_acquire().map(SemaphorePermit::forget).is_ok()
    }

    /// Waits for a slot.
    pub(crate) async fn take(&self) {
        // An error would mean that the semaphore was closed, which nobody does.
        let _ = self.free.acquire().await.map(SemaphorePermit::forget);
    }

    /// Gives a slot back: it is free, or makes up for one that is surplus.
    #[inline]
    pub(crate) fn give_back(&self) {
        match self.surplus.load(Ordering::Acquire) {
            0 => self.free.add_permits(1),
            _ => self.add(1),
        }
    }

    /// Makes up for surplus slots; the others of these are free.
    fn add(&self, slots: usize) {
        let less = |surplus: usize| Some(surplus.saturating_sub(slots));
        let surplus = self
            .surplus
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .unwrap_or_default();
        self.free.add_permits(slots.saturating_sub(surplus));
    }

    /// Joins the queue if fewer than `longest` wait.
    pub(crate) fn join_queue(&self, longest: usize) -> bool {
        let more = |waiting: usize| (waiting < longest).then_some(waiting + 1);
        let order = Ordering::Relaxed;
        self.waiting.fetch_update(order, order, more).is_ok()
    }

    pub(crate) fn leave_queue(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Changes the limit. Slots that are taken stay taken.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.resize(limit, || ());
    }

    /// `meanwhile`: what happens between the two steps, for tests.
    fn resize(&self, limit: usize, meanwhile: impl FnOnce()) {
        let _one_at_a_time = self.resizing.lock();
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let before = self.limit.swap(limit, Ordering::Relaxed);
        let fewer = before.saturating_sub(limit);
        // Surplus first: a slot that is given back meanwhile must not become free.
        self.surplus.fetch_add(fewer, Ordering::AcqRel);
        meanwhile();
        let removed = self.free.forget_permits(fewer);
        self.add(removed + limit.saturating_sub(before));
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn taken(&self) -> usize {
        let _not_resizing = self.resizing.lock();
        let all = self.limit() + self.surplus.load(Ordering::Acquire);
        all.saturating_sub(self.free.available_permits())
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Take,
        GiveBack,
        Limit(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => Just(Op::Take),
            3 => Just(Op::GiveBack),
            1 => (0..12_usize).prop_map(Op::Limit),
        ]
    }

    #[test]
    fn a_slot_that_is_given_back_while_the_limit_is_lowered_is_not_free() {
        for (taken, given_back) in [(3, 1), (3, 2), (3, 3), (2, 1), (1, 1)] {
            let slots = Slots::new(3);
            assert!((0..taken).all(|_| slots.try_take()));
            slots.resize(1, || (0..given_back).for_each(|_| slots.give_back()));
            let left = taken - given_back;
            assert_eq!((slots.taken(), slots.limit()), (left, 1));
            assert_eq!(slots.try_take(), left < 1);
        }
    }

    #[test]
    fn the_limit_may_be_any_number() {
        let slots = Slots::new(usize::MAX);
        assert!(slots.try_take());
        for limit in [0, usize::MAX, 1, 0, usize::MAX] {
            slots.set_limit(limit);
            let most = limit.min(Semaphore::MAX_PERMITS);
            assert_eq!((slots.taken(), slots.limit()), (1, most));
            assert_eq!(slots.try_take(), limit > 1);
            if limit > 1 {
                slots.give_back();
            }
        }
    }

    proptest! {
        #[test]
        fn a_slot_is_free_exactly_while_fewer_than_the_limit_are_taken(
            limit in 0..8_usize,
            ops in proptest::collection::vec(op(), 0..200),
        ) {
            let slots = Slots::new(limit);
            let (mut limit, mut taken) = (limit, 0);
            for op in ops {
                match op {
                    Op::Take => {
                        prop_assert_eq!(slots.try_take(), taken < limit);
                        taken += usize::from(taken < limit);
                    }
                    Op::GiveBack if taken > 0 => {
                        slots.give_back();
                        taken -= 1;
                    }
                    Op::GiveBack => {}
                    Op::Limit(new) => {
                        slots.set_limit(new);
                        limit = new;
                    }
                }
                prop_assert_eq!((slots.taken(), slots.limit()), (taken, limit));
            }
        }
    }
}
