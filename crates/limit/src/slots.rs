//! A number of slots that can be taken, waited for and changed.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// A limit on how many slots are taken at once. A slot that is given back goes to the caller that has waited longest.
///
/// At any time `taken = limit + surplus - spare - free`.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Free slots that were given back while no caller waited. Giving one to the semaphore locks a mutex, which a request
    /// that waits for nothing need not do.
    spare: AtomicUsize,
    /// The other free slots, and the callers that wait for one.
    free: Semaphore,
    /// Number of callers that wait, or begin to.
    waiters: AtomicUsize,
    limit: AtomicUsize,
    /// Slots that are taken, and will not be free again because the limit has fallen below them.
    surplus: AtomicUsize,
    /// Number of requests in the queue.
    waiting: AtomicUsize,
    resizing: Mutex<()>,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self {
            spare: AtomicUsize::new(0),
            free: Semaphore::new(limit),
            waiters: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            surplus: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            resizing: Mutex::new(()),
        }
    }

    /// Takes a slot if one is free.
    #[inline]
    pub(crate) fn try_take(&self) -> bool {
        let one_less = |spare: usize| spare.checked_sub(1);
        let order = Ordering::SeqCst;
        self.spare.fetch_update(order, order, one_less).is_ok()
            || self.free.try_acquire().map(SemaphorePermit::forget).is_ok()
    }

    /// Waits for a slot.
    pub(crate) async fn take(&self) {
        let _waiter = Waiter::of(self);
        // From now on, slots that are given back go to the semaphore. This moves those that were given back before.
        self.settle();
        // An error would mean that the semaphore was closed, which nobody does.
        let _ = self.free.acquire().await.map(SemaphorePermit::forget);
    }

    /// Gives a slot back: it is free, or makes up for one that is surplus.
    #[inline]
    pub(crate) fn give_back(&self) {
        // Sequentially consistent: either this sees the caller that begins to wait, or that caller sees the slot. The same
        // holds for a limit that is lowered meanwhile.
        self.spare.fetch_add(1, Ordering::SeqCst);
        if self.waiters.load(Ordering::SeqCst) > 0 || self.surplus.load(Ordering::SeqCst) > 0 {
            self.settle();
        }
    }

    /// Passes the spare slots on to the callers that wait, or makes up for surplus slots with them.
    #[cold]
    fn settle(&self) {
        let spare = self.remove_spare(usize::MAX);
        self.add(spare);
    }

    fn remove_spare(&self, most: usize) -> usize {
        let order = Ordering::SeqCst;
        let rest = |spare: usize| Some(spare.saturating_sub(most));
        let spare = self.spare.fetch_update(order, order, rest);
        spare.unwrap_or_default().min(most)
    }

    /// Makes up for surplus slots; the others of these are free.
    fn add(&self, slots: usize) {
        let less = |surplus: usize| Some(surplus.saturating_sub(slots));
        let surplus = self
            .surplus
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .unwrap_or_default();
        let free = slots.saturating_sub(surplus);
        if free > 0 {
            self.free.add_permits(free);
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
        self.surplus.fetch_add(fewer, Ordering::SeqCst);
        meanwhile();
        let spare = self.remove_spare(fewer);
        let removed = spare + self.free.forget_permits(fewer - spare);
        self.add(removed + limit.saturating_sub(before));
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn taken(&self) -> usize {
        let _not_resizing = self.resizing.lock();
        let all = self.limit() + self.surplus.load(Ordering::SeqCst);
        // In this order: a slot that becomes free meanwhile is counted at most once.
        let taken = all.saturating_sub(self.free.available_permits());
        taken.saturating_sub(self.spare.load(Ordering::SeqCst))
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Counts a caller among those that wait, also if it stops waiting.
struct Waiter<'a>(&'a AtomicUsize);

impl<'a> Waiter<'a> {
    fn of(slots: &'a Slots) -> Self {
        slots.waiters.fetch_add(1, Ordering::SeqCst);
        Self(&slots.waiters)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
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
    fn a_slot_that_is_given_back_goes_to_the_caller_that_waits() {
        let slots = Slots::new(1);
        assert!(slots.try_take());
        slots.give_back();
        assert_eq!(slots.take().now_or_never(), Some(()), "given back before");
        let mut first = Box::pin(slots.take());
        let mut second = Box::pin(slots.take());
        assert_eq!(first.as_mut().now_or_never(), None);
        assert_eq!(second.as_mut().now_or_never(), None);
        slots.give_back();
        assert!(!slots.try_take(), "it is the first caller's");
        assert_eq!(second.as_mut().now_or_never(), None);
        // The first caller leaves.
        drop(first);
        assert_eq!(second.as_mut().now_or_never(), Some(()));
        drop(second);
        slots.give_back();
        assert_eq!(slots.taken(), 0);
        assert!(slots.try_take());
    }

    /// If a slot were lost between a caller that gives it back and one that begins to wait, this would not end.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_slot_is_lost_and_none_is_taken_twice() {
        let slots = std::sync::Arc::new(Slots::new(2));
        let inside = std::sync::Arc::new(AtomicUsize::new(0));
        let callers = (0..4).map(|_| {
            let (slots, inside) = (slots.clone(), inside.clone());
            tokio::spawn(async move {
                for _ in 0..5_000 {
                    slots.take().await;
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    slots.give_back();
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(slots.taken(), 0);
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
