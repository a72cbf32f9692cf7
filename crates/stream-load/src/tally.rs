//! What is counted while streams run.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

use crate::Ending;

/// Figures of some streams. Each worker keeps its own; they are added up at the end.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) endings: BTreeMap<Ending, u64>,
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
        // microseconds in three digits; `auto` so that no value is out of range
        let histogram = || {
            let mut histogram = Histogram::new(3).expect("three digits are in range");
            histogram.auto(true);
            histogram
        };
        Self {
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

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

impl Tally {
    pub(crate) fn head(&mut self, time: Duration) {
        self.head.saturating_record(micros(time));
    }

    pub(crate) fn first_chunk(&mut self, time: Duration) {
        self.first_chunk.saturating_record(micros(time));
    }

    pub(crate) fn gap(&mut self, time: Duration) {
        self.gap.saturating_record(micros(time));
    }

    pub(crate) fn duration(&mut self, time: Duration) {
        self.duration.saturating_record(micros(time));
    }

    pub(crate) fn bytes(&mut self, len: usize) {
        self.chunks += 1;
        self.bytes += len as u64;
    }

    pub(crate) fn records(&mut self, count: u64) {
        self.records += count;
    }

    pub(crate) fn verified(&mut self) {
        self.verified += 1;
    }

    pub(crate) fn count(&mut self, ending: Ending, reason: impl FnOnce() -> String) -> Ending {
        *self.endings.entry(ending).or_default() += 1;
        let reason = reason();
        if !reason.is_empty() {
            let mut key = (ending, reason);
            if self.reasons.len() >= REASONS && !self.reasons.contains_key(&key) {
                key.1 = "other reasons".to_owned();
            }
            *self.reasons.entry(key).or_default() += 1;
        }
        ending
    }

    pub(crate) fn of(&self, ending: Ending) -> u64 {
        self.endings.get(&ending).copied().unwrap_or(0)
    }

    pub(crate) fn streams(&self) -> u64 {
        self.endings.values().sum()
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (ending, count) in other.endings {
            *self.endings.entry(ending).or_default() += count;
        }
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        for (sum, part) in [
            (&mut self.head, &other.head),
            (&mut self.first_chunk, &other.first_chunk),
            (&mut self.gap, &other.gap),
            (&mut self.duration, &other.duration),
        ] {
            sum.add(part).expect("both resize themselves");
        }
        self.chunks += other.chunks;
        self.bytes += other.bytes;
        self.records += other.records;
        self.verified += other.verified;
    }
}
