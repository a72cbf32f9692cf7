//! Times routines in turns, so that what else the machine does falls on all of them alike.

use std::hint::black_box;
use tokio::time::Instant;

const ROUNDS: usize = 40;

pub(crate) struct Contest<'a> {
    calls: usize,
    entries: Vec<Box<dyn FnMut() + 'a>>,
}

impl<'a> Contest<'a> {
    /// `calls` of each routine make one measurement.
    pub(crate) fn new(calls: usize) -> Self {
        Self {
            calls,
            entries: Vec::new(),
        }
    }

    pub(crate) fn entry<T>(mut self, mut routine: impl FnMut() -> T + 'a) -> Self {
        self.entries
            .push(Box::new(move || _ = black_box(routine())));
        self
    }

    /// Seconds a call in the best round of each routine, in the order of the entries.
    pub(crate) fn seconds(mut self) -> Vec<f64> {
        let mut best = vec![f64::INFINITY; self.entries.len()];
        for _ in 0..ROUNDS {
            for (best, routine) in best.iter_mut().zip(&mut self.entries) {
                let start = Instant::now();
                for _ in 0..self.calls {
                    routine();
                }
                *best = best.min(start.elapsed().as_secs_f64() / self.calls as f64);
            }
        }
        best
    }
}
