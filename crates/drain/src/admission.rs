//! The state of a drain and its count in one atomic word, so that one instruction admits or refuses a request.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

use crate::state::{Phase, State};

// One bit per state. Bits are only set, never cleared, so setting one is an idempotent `fetch_or`. `WATCHED` is set by
// the first task that waits for the count to reach 0, and is never cleared either.
const WATCHED: u64 = 1 << 60;
const ADVERTISE: u64 = 1 << 61;
const CLOSE: u64 = 1 << 62;
const DEAD: u64 = 1 << 63;
const COUNT: u64 = WATCHED - 1;

/// The state and the count. The `fetch_add` that counts a request also returns the state.
///
/// No request is therefore admitted in a state that is over. A task that sees "closed and count 0" once can rely on it:
/// this load and every later `enter` are ordered on one atomic word.
#[derive(Debug)]
pub(crate) struct Admission(AtomicU64);

/// The word that [`Admission::enter`] or [`Admission::leave`] found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word(u64);

impl Word {
    pub(crate) fn state(self) -> State {
        if self.0 & DEAD != 0 {
            State::Dead
        } else if self.0 & CLOSE != 0 {
            State::Draining(Phase::Close)
        } else if self.0 & ADVERTISE != 0 {
            State::Draining(Phase::Advertise)
        } else {
            State::Active
        }
    }

    pub(crate) fn count(self) -> u64 {
        self.0 & COUNT
    }

    /// Returns whether the count is 0 and a task may be waiting for that.
    #[inline]
    pub(crate) fn is_awaited_end(self) -> bool {
        self.0 & (COUNT | WATCHED) == WATCHED
    }
}

impl Admission {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Admits and counts a request, or refuses it. The word has the state.
    ///
    /// A request that races with the close may be counted for an instant before it leaves again. Check the word of that
    /// `leave`: it may be the one that reaches 0.
    #[inline]
    pub(crate) fn enter(&self) -> Result<State, Option<Word>> {
        // The close is final, so a load is enough, and the count stays untouched.
        if self.load().state().is_refusing() {
            return Err(None);
        }
        let state = self.hold().state();
        if state.is_refusing() {
            return Err(Some(self.leave()));
        }
        Ok(state)
    }

    /// Counts one more, whatever the state. Returns the word before.
    #[inline]
    pub(crate) fn hold(&self) -> Word {
        Word(self.0.fetch_add(1, Ordering::AcqRel))
    }

    /// Counts one less. Returns the word *after* it: count 0 means that the last one has left.
    #[inline]
    pub(crate) fn leave(&self) -> Word {
        Word(self.0.fetch_sub(1, Ordering::AcqRel) - 1)
    }

    /// Call this before checking whether the count is 0. Setting `WATCHED` and decrementing are ordered on one atomic
    /// word, so either the watcher sees the new count or the last request sees the flag.
    pub(crate) fn watch(&self) {
        self.0.fetch_or(WATCHED, Ordering::AcqRel);
    }

    /// Advances to `state` unless it has been reached. Returns the word before.
    pub(crate) fn advance(&self, state: State) -> Word {
        let bits = match state {
            State::Active => 0,
            State::Draining(Phase::Advertise) => ADVERTISE,
            State::Draining(Phase::Close) => ADVERTISE | CLOSE,
            State::Dead => ADVERTISE | CLOSE | DEAD,
        };
        Word(self.0.fetch_or(bits, Ordering::AcqRel))
    }

    #[inline]
    pub(crate) fn load(&self) -> Word {
        Word(self.0.load(Ordering::Acquire))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_that_somebody_waits_for_is_told() {
        let admission = Admission::new();
        admission.hold();
        assert!(!admission.leave().is_awaited_end());
        admission.hold();
        admission.hold();
        admission.watch();
        assert!(!admission.leave().is_awaited_end());
        assert!(admission.leave().is_awaited_end());
        assert_eq!(admission.load().state(), State::Active);
    }

    #[test]
    fn a_state_is_never_taken_back() {
        let admission = Admission::new();
        assert_eq!(admission.enter().ok(), Some(State::Active));
        let steps = [
            State::Draining(Phase::Advertise),
            State::Draining(Phase::Close),
            State::Dead,
        ];
        for state in steps {
            assert!(admission.advance(state).state() < state);
            assert_eq!(admission.load().state(), state);
            for earlier in steps.into_iter().filter(|s| *s <= state) {
                assert_eq!(admission.advance(earlier).state(), state);
                assert_eq!(admission.load().state(), state);
            }
            assert_eq!(admission.load().count(), 1);
        }
        assert_eq!(admission.leave().count(), 0);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize},
        },
        thread,
    };

    const CLOSED: State = State::Draining(Phase::Close);

    #[derive(Default)]
    struct Rig {
        admission: Admission,
        gone: AtomicBool,
        woken: AtomicBool,
    }

    impl Default for Admission {
        fn default() -> Self {
            Self::new()
        }
    }

    impl Rig {
        fn left(&self, word: Word) {
            if word.is_awaited_end() {
                self.woken.store(true, Ordering::SeqCst);
            }
        }

        /// One request: enters, works, leaves. Returns whether it was admitted.
        fn request(&self) -> bool {
            match self.admission.enter() {
                Ok(_) => {
                    assert!(
                        !self.gone.load(Ordering::SeqCst),
                        "in, while the drain was found closed and empty"
                    );
                    self.left(self.admission.leave());
                    true
                }
                Err(word) => {
                    word.into_iter().for_each(|word| self.left(word));
                    false
                }
            }
        }
    }

    #[test]
    fn loom_closed_and_empty_is_for_ever() {
        loom::model(|| {
            let rig = Arc::new(Rig::default());
            let requests: Vec<_> = (0..2)
                .map(|_| {
                    let rig = rig.clone();
                    thread::spawn(move || rig.request())
                })
                .collect();

            rig.admission.advance(CLOSED);
            rig.admission.watch();
            let empty = rig.admission.load().count() == 0;
            if empty {
                rig.gone.store(true, Ordering::SeqCst);
            }

            requests.into_iter().for_each(|request| {
                request.join().unwrap();
            });
            assert_eq!(
                rig.admission.load().count(),
                0,
                "the count does not balance"
            );
            assert!(
                empty || rig.woken.load(Ordering::SeqCst),
                "nobody woke the drain"
            );
        });
    }

    #[test]
    fn loom_a_request_after_the_close_is_refused_and_one_before_it_is_not() {
        loom::model(|| {
            let rig = Arc::new(Rig::default());
            let before = rig.request();
            let racing = {
                let rig = rig.clone();
                thread::spawn(move || rig.request())
            };
            rig.admission.advance(CLOSED);
            let after = rig.request();
            racing.join().unwrap();
            assert!(before && !after);
            assert_eq!(rig.admission.load().count(), 0);
        });
    }

    /// Each admitted request either ended in time or is in the count at `Dead`.
    #[test]
    fn loom_the_count_at_death_is_who_was_cut() {
        loom::model(|| {
            let admission = Arc::new(Admission::new());
            let in_time = Arc::new(AtomicUsize::new(0));
            let admitted: usize = (0..2).filter(|_| admission.enter().is_ok()).count();
            let leaving: Vec<_> = (0..admitted)
                .map(|_| {
                    let (admission, in_time) = (admission.clone(), in_time.clone());
                    thread::spawn(move || {
                        if admission.leave().state() != State::Dead {
                            in_time.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            admission.advance(CLOSED);
            let cut = admission.advance(State::Dead).count() as usize;
            leaving
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
            assert_eq!(in_time.load(Ordering::SeqCst) + cut, admitted);
        });
    }
}
