//! Runs a test under every order in which the steps of its parts can happen.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Wake, Waker},
};

/// The choices of one run. Each run makes one choice differently than those before it, until all were made.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    /// Each choice, and of how many.
    made: Vec<(usize, usize)>,
    at: usize,
}

impl Choices {
    /// Calls `run` with every sequence of choices. Returns how many there were.
    pub(crate) fn all(mut run: impl FnMut(&mut Self)) -> usize {
        let mut choices = Self::default();
        for runs in 1.. {
            choices.at = 0;
            run(&mut choices);
            let more = choices.made.iter().rposition(|(made, of)| made + 1 < *of);
            let Some(last) = more else {
                return runs;
            };
            choices.made.truncate(last + 1);
            choices.made[last].0 += 1;
        }
        unreachable!()
    }

    /// One of these.
    pub(crate) fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        if of.len() == 1 {
            return of[0];
        }
        if self.at == self.made.len() {
            self.made.push((0, of.len()));
        }
        let (choice, _) = self.made[self.at];
        self.at += 1;
        of[choice]
    }
}

/// Whether a task was woken since it was last polled. A new task is.
#[derive(Debug)]
pub(crate) struct Woken(AtomicBool);

impl Woken {
    pub(crate) fn new() -> (Arc<Self>, Waker) {
        let woken = Arc::new(Self(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        (woken, waker)
    }

    pub(crate) fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// To be called before the task is polled.
    pub(crate) fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A point at which other parts may run: a message is in flight.
pub(crate) async fn in_flight() {
    let mut arrived = false;
    let arrives = poll_fn(|cx| {
        if std::mem::replace(&mut arrived, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    arrives.await;
}
