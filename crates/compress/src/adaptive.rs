//! Levels that follow the CPU load.

use std::{
    fmt,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{Coding, load::LoadSource, settings::Codings};

/// The load is read at most this often.
const PERIOD: Duration = Duration::from_secs(1);

/// The loads above which the next rung, that is the next set of codings, is used.
const ABOVE: [f64; 2] = [0.45, 0.75];

/// A rung is left for the one before it when the load is below its bound by this much.
const HYSTERESIS: f64 = 0.05;

/// The codings of each rung, idle first.
fn rungs() -> [Codings; 3] {
    use Coding::{Br, Gzip, Zstd};
    [
        Codings::new([(Br, 4), (Zstd, 3), (Gzip, 6)]),
        Codings::new([(Zstd, 3), (Gzip, 4), (Br, 3)]),
        Codings::new([(Zstd, 1), (Gzip, 1), (Br, 3)]),
    ]
}

pub(crate) struct Adaptive {
    began: Instant,
    /// When the load is read next, in milliseconds since `began`.
    due: AtomicU64,
    rung: AtomicU8,
    source: Mutex<Source>,
    codings: [Codings; 3],
}

struct Source {
    read: Instant,
    load: Box<dyn LoadSource>,
}

impl Adaptive {
    pub(crate) fn new(load: impl LoadSource) -> Self {
        let began = Instant::now();
        Self {
            began,
            due: AtomicU64::new(0),
            rung: AtomicU8::new(0),
            source: Mutex::new(Source {
                read: began,
                load: Box::new(load),
            }),
            codings: rungs(),
        }
    }

    /// The codings for a response that begins now.
    pub(crate) fn codings(&self) -> Codings {
        let now = Instant::now();
        let millis = now.duration_since(self.began).as_millis() as u64;
        if millis >= self.due.load(Ordering::Relaxed)
            // Other requests do not wait for the one that reads.
            && let Some(mut source) = self.source.try_lock()
        {
            let next = millis + PERIOD.as_millis() as u64;
            self.due.store(next, Ordering::Relaxed);
            let elapsed = now.duration_since(source.read);
            source.read = now;
            if let Some(load) = source.load.load(elapsed) {
                let rung = next_rung(self.rung(), load);
                self.rung.store(rung as u8, Ordering::Relaxed);
            }
        }
        self.codings[self.rung()]
    }

    pub(crate) fn rung(&self) -> usize {
        usize::from(self.rung.load(Ordering::Relaxed))
    }
}

fn next_rung(rung: usize, load: f64) -> usize {
    let above = |margin: f64| ABOVE.iter().filter(|bound| load > **bound - margin).count();
    // Goes to the next rung above a bound, and back only below the bound less the hysteresis.
    rung.clamp(above(0.0), above(HYSTERESIS))
}

impl fmt::Debug for Adaptive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adaptive")
            .field("rung", &self.rung())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_load_that_swings_around_a_bound_changes_nothing() {
        for (before, load, after) in [
            (0, 0.0, 0),
            (0, 0.45, 0),
            (0, 0.46, 1),
            (1, 0.44, 1),
            (1, 0.41, 1),
            (1, 0.39, 0),
            (1, 0.75, 1),
            (1, 0.76, 2),
            (2, 0.71, 2),
            (2, 0.69, 1),
            (2, 0.42, 1),
            (2, 0.1, 0),
            (0, 1.0, 2),
            (1, f64::NAN, 0),
        ] {
            assert_eq!(next_rung(before, load), after, "{before} at {load}");
        }
    }

    /// The calls, each with the load that was left and the time that had passed.
    type Calls = Vec<(Option<f64>, Duration)>;

    struct Script(Arc<Mutex<Calls>>, Option<f64>);

    impl LoadSource for Script {
        fn load(&mut self, elapsed: Duration) -> Option<f64> {
            let mut calls = self.0.lock();
            let load = [None, Some(0.9), Some(0.5), None, Some(0.1)][calls.len()];
            calls.push((self.1, elapsed));
            load
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_read_once_a_second_and_an_unknown_load_changes_nothing() {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let adaptive = Adaptive::new(Script(Arc::clone(&calls), None));
        let mut rungs = Vec::new();
        for _ in 0..5 {
            for _ in 0..10 {
                adaptive.codings();
            }
            rungs.push(adaptive.rung());
            tokio::time::advance(Duration::from_millis(1500)).await;
        }
        assert_eq!(rungs, [0, 2, 1, 1, 0]);
        let calls = calls.lock();
        assert_eq!(calls.len(), 5);
        assert!(
            calls[1..]
                .iter()
                .all(|(_, elapsed)| elapsed.as_millis() == 1500)
        );
    }
}
