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
    pub(crate) timeline: Timeline,
}

/// What happened when, in equal steps from the first stream on.
#[derive(Debug)]
pub(crate) struct Timeline {
    began: Option<Instant>,
    pub(crate) step: Duration,
    pub(crate) points: Vec<Point>,
}

/// One step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Point {
    pub(crate) chunks: u64,
    pub(crate) gaps: u64,
    pub(crate) gap_sum: Duration,
    pub(crate) gap_max: Duration,
    pub(crate) ended: u64,
}

/// A longer run has longer steps.
const POINTS: usize = 600;

impl Timeline {
    fn now(&mut self) -> &mut Point {
        let now = Instant::now();
        let elapsed = now - *self.began.get_or_insert(now);
        let mut index = (elapsed.as_nanos() / self.step.as_nanos()) as usize;
        while index >= POINTS {
            self.step *= 2;
            index /= 2;
            let pairs = self.points.chunks(2);
            self.points = pairs.map(Point::joined).collect();
        }
        if self.points.len() <= index {
            self.points.resize(index + 1, Point::default());
        }
        &mut self.points[index]
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            began: None,
            step: Duration::from_millis(250),
            points: Vec::new(),
        }
    }
}

impl Point {
    fn joined(parts: &[Self]) -> Self {
        parts.iter().fold(Self::default(), |all, part| Self {
            chunks: all.chunks + part.chunks,
            gaps: all.gaps + part.gaps,
            gap_sum: all.gap_sum + part.gap_sum,
            gap_max: all.gap_max.max(part.gap_max),
            ended: all.ended + part.ended,
        })
    }
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
            timeline: Timeline::default(),
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
        let point = self.timeline.now();
        point.gaps += 1;
        point.gap_sum += time;
        point.gap_max = point.gap_max.max(time);
    }

    pub(crate) fn chunk(&mut self, bytes: usize, records: u64) {
        self.chunks += 1;
        self.bytes += bytes as u64;
        self.records += records;
        self.timeline.now().chunks += 1;
    }

    pub(crate) fn verified(&mut self) {
        self.verified += 1;
    }

    pub(crate) fn count(&mut self, ending: Ending, reason: String) {
        *self.endings.entry(ending).or_default() += 1;
        self.timeline.now().ended += 1;
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

    #[tokio::test(start_paused = true)]
    async fn a_long_run_has_longer_steps_and_loses_nothing() {
        let mut tally = Tally::default();
        for second in 1..=1_000 {
            tally.chunk(1, 1);
            tally.gap(Duration::from_millis(second));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let timeline = &tally.timeline;
        assert!(timeline.points.len() <= POINTS);
        assert_eq!(timeline.step, Duration::from_secs(2));
        let all = Point::joined(&timeline.points);
        assert_eq!((all.chunks, all.gaps), (1_000, 1_000));
        assert_eq!(all.gap_max, Duration::from_secs(1));
        assert_eq!(timeline.points[0].chunks, 2);
    }

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
