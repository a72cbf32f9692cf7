//! A number of slots that can be taken, waited for and changed.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// A limit on how many are in at once. First come, first served: a slot that is given back goes to the first that waits.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Semaphore,
    limit: AtomicUsize,
    /// Slots that are taken, and will not be free again because the limit has fallen below them.
    surplus: AtomicUsize,
    taken: AtomicUsize,
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
            taken: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            resizing: Mutex::new(()),
        }
    }

    /// Takes a slot if one is free.
    #[inline]
    pub(crate) fn try_take(&self) -> bool {
        let Ok(permit) = self.free.try_acquire() else {
            return false;
        };
        permit.forget();
        self.taken.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Waits for a slot.
    pub(crate) async fn take(&self) {
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives a slot back.
    #[inline]
    pub(crate) fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        self.add();
    }

    /// Adds a free slot, or makes up for one that is surplus.
    #[inline]
    fn add(&self) {
        let less = |surplus: usize| surplus.checked_sub(1);
        let (set, fetch) = (Ordering::AcqRel, Ordering::Acquire);
        if self.surplus.load(Ordering::Acquire) == 0
            || self.surplus.fetch_update(set, fetch, less).is_err()
        {
            self.free.add_permits(1);
        }
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

    /// Changes the limit. Whoever is in stays in.
    pub(crate) fn set_limit(&self, limit: usize) {
        let _one_at_a_time = self.resizing.lock();
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let before = self.limit.swap(limit, Ordering::Relaxed);
        if limit < before {
            let removed = self.free.forget_permits(before - limit);
            let surplus = before - limit - removed;
            self.surplus.fetch_add(surplus, Ordering::AcqRel);
        }
        for _ in before..limit {
            self.add();
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
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
