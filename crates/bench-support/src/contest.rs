//! Times several routines in alternating rounds.

use std::{fmt, hint::black_box};

use tokio::time::Instant;

const ROUNDS: usize = 40;

/// Times several routines in alternating rounds, so that other load on the machine affects all of them alike.
///
/// ```
/// # let (ours, theirs) = (|| 1, || 2);
/// let best = tower_stream_bench_support::Contest::new(1_000).entry(ours).entry(theirs).seconds();
/// println!("{:.2}x", best[0] / best[1]);
/// ```
pub struct Contest<'a> {
    calls: usize,
    entries: Vec<Box<dyn FnMut() + 'a>>,
}

impl<'a> Contest<'a> {
    /// Each measurement calls each routine `calls` times.
    #[must_use]
    pub fn new(calls: usize) -> Self {
        Self {
            calls,
            entries: Vec::new(),
        }
    }

    /// Adds a routine.
    #[must_use]
    pub fn entry<T>(mut self, mut routine: impl FnMut() -> T + 'a) -> Self {
        self.entries
            .push(Box::new(move || _ = black_box(routine())));
        self
    }

    /// Returns the seconds per call in the best round of each routine, in the order of the entries.
    #[must_use]
    pub fn seconds(mut self) -> Vec<f64> {
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

impl fmt::Debug for Contest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contest")
            .field("calls", &self.calls)
            .field("entries", &self.entries.len())
            .finish()
    }
}
