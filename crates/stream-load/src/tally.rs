//! Counters and histograms of a run.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::{Ending, run::TOLERANCE};

/// The measurements of all streams. Shared by all workers, because the histograms take some hundred kilobytes.
#[derive(Debug)]
pub(crate) struct Tally {
    begun: u64,
    endings: BTreeMap<Ending, u64>,
    /// How often each reason occurred; at most `REASONS` different reasons are kept.
    pub(crate) reasons: BTreeMap<(Ending, String), u64>,
    /// Measured from the time at which each stream was due.
    pub(crate) latency: Times,
    /// Measured from the actual start of each stream.
    pub(crate) service: Times,
    pub(crate) gap: Histogram<u64>,
    /// Delays of the streams that started late.
    pub(crate) lag: Histogram<u64>,
    pub(crate) not_begun: u64,
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    pub(crate) records: u64,
    pub(crate) verified: u64,
}

/// Times to the parts of a stream.
#[derive(Debug)]
pub(crate) struct Times {
    pub(crate) head: Histogram<u64>,
    pub(crate) first_chunk: Histogram<u64>,
    pub(crate) duration: Histogram<u64>,
}

/// When a stream was due, and when it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) due: Instant,
    pub(crate) at: Instant,
}

/// Further reasons are counted together as "other reasons".
const REASONS: usize = 20;

impl Default for Tally {
    fn default() -> Self {
        Self {
            begun: 0,
            endings: BTreeMap::new(),
            reasons: BTreeMap::new(),
            latency: Times::default(),
            service: Times::default(),
            gap: histogram(),
            lag: histogram(),
            not_begun: 0,
            chunks: 0,
            bytes: 0,
            records: 0,
            verified: 0,
        }
    }
}

impl Tally {
    pub(crate) fn begin(&mut self, start: Start) {
        self.begun += 1;
        let lag = start.at - start.due;
        if lag > TOLERANCE {
            record(&mut self.lag, lag);
        }
    }

    pub(crate) fn head(&mut self, start: Start) {
        self.passed(start, |times| &mut times.head);
    }

    pub(crate) fn first_chunk(&mut self, start: Start) {
        self.passed(start, |times| &mut times.first_chunk);
    }

    pub(crate) fn duration(&mut self, start: Start) {
        self.passed(start, |times| &mut times.duration);
    }

    fn passed(&mut self, start: Start, histogram: fn(&mut Times) -> &mut Histogram<u64>) {
        let now = Instant::now();
        record(histogram(&mut self.latency), now - start.due);
        record(histogram(&mut self.service), now - start.at);
    }

    pub(crate) fn gap(&mut self, time: Duration) {
        record(&mut self.gap, time);
    }

    pub(crate) fn chunk(&mut self, bytes: usize, records: u64) {
        self.chunks += 1;
        self.bytes += bytes as u64;
        self.records += records;
    }

    pub(crate) fn verified(&mut self) {
        self.verified += 1;
    }

    pub(crate) fn count(&mut self, ending: Ending, reason: String) {
        *self.endings.entry(ending).or_default() += 1;
        if !reason.is_empty() {
            let mut key = (ending, reason);
            if self.reasons.len() >= REASONS && !self.reasons.contains_key(&key) {
                key.1 = "other reasons".to_owned();
            }
            *self.reasons.entry(key).or_default() += 1;
        }
    }

    /// Counts the streams that have started but not ended as `Running`.
    pub(crate) fn leave_running(&mut self) {
        let left = self.begun - self.streams();
        *self.endings.entry(Ending::Running).or_default() += left;
    }

    pub(crate) fn of(&self, ending: Ending) -> u64 {
        self.endings.get(&ending).copied().unwrap_or(0)
    }

    pub(crate) fn streams(&self) -> u64 {
        self.endings.values().sum()
    }
}

impl Default for Times {
    fn default() -> Self {
        Self {
            head: histogram(),
            first_chunk: histogram(),
            duration: histogram(),
        }
    }
}

/// A histogram of microseconds with three significant digits, which grows as needed.
fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are in range")
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    // Only a histogram of a fixed size rejects a value.
    let _ = histogram.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_were() {
        let mut tally = Tally::default();
        for millis in [1, 10, 100] {
            tally.gap(Duration::from_millis(millis));
        }
        assert!((9_990..=10_010).contains(&tally.gap.value_at_quantile(0.5)));
        assert_eq!(tally.gap.max() / 1000, 100);
    }
}
