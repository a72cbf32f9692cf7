//! What is counted while streams run.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

use crate::Ending;

/// The figures of all streams. One for all workers: its histograms take half a megabyte.
#[derive(Debug)]
pub(crate) struct Tally {
    begun: u64,
    endings: BTreeMap<Ending, u64>,
    /// the first few reasons for each ending that has one, with how often each came
    pub(crate) reasons: BTreeMap<(Ending, String), u64>,
    pub(crate) head: Histogram<u64>,
    pub(crate) first_chunk: Histogram<u64>,
    pub(crate) gap: Histogram<u64>,
    pub(crate) duration: Histogram<u64>,
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    pub(crate) records: u64,
    pub(crate) verified: u64,
}

/// More different reasons than this are not told apart.
const REASONS: usize = 20;

impl Default for Tally {
    fn default() -> Self {
        // microseconds up to an hour, in three digits
        let histogram =
            || Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds in range");
        Self {
            begun: 0,
            endings: BTreeMap::new(),
            reasons: BTreeMap::new(),
            head: histogram(),
            first_chunk: histogram(),
            gap: histogram(),
            duration: histogram(),
            chunks: 0,
            bytes: 0,
            records: 0,
            verified: 0,
        }
    }
}

impl Tally {
    pub(crate) fn begin(&mut self) {
        self.begun += 1;
    }

    pub(crate) fn head(&mut self, time: Duration) {
        record(&mut self.head, time);
    }

    pub(crate) fn first_chunk(&mut self, time: Duration) {
        record(&mut self.first_chunk, time);
    }

    pub(crate) fn gap(&mut self, time: Duration) {
        record(&mut self.gap, time);
    }

    pub(crate) fn duration(&mut self, time: Duration) {
        record(&mut self.duration, time);
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

    /// What was begun and not counted was left while it ran.
    pub(crate) fn leave_unfinished(&mut self) {
        let left = self.begun - self.streams();
        *self.endings.entry(Ending::Unfinished).or_default() += left;
    }

    pub(crate) fn of(&self, ending: Ending) -> u64 {
        self.endings.get(&ending).copied().unwrap_or(0)
    }

    pub(crate) fn streams(&self) -> u64 {
        self.endings.values().sum()
    }
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
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
