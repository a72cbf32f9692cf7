//! Logs when spans are lost, and when they no longer are.

use std::{sync::Arc, time::Duration};

use opentelemetry_sdk::error::OTelSdkResult;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::SpanCounts;

/// The minimum time between two warnings about the same kind of loss.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(30);

/// The endpoint and its last error, as the transport knows them: the exporter hides both.
#[derive(Clone, Debug, Default)]
pub(crate) struct Destination(Arc<Mutex<Attempt>>);

#[derive(Clone, Debug, Default)]
struct Attempt {
    endpoint: Option<String>,
    error: Option<String>,
}

impl Destination {
    /// Records a request to `endpoint`, and the error of the transport if there was no response.
    #[cfg(feature = "otlp")]
    pub(crate) fn attempted(&self, endpoint: String, error: Option<String>) {
        *self.0.lock() = Attempt {
            endpoint: Some(endpoint),
            error,
        };
    }
}

/// Logs at most one warning every 30 s for each kind of loss, and one line when it is over.
///
/// All lines are logged on the thread that exports. A line logged where a span ends would be logged inside of the
/// subscriber that ends the span.
#[derive(Debug, Default)]
pub(super) struct Reports {
    export_failed: Outage,
    queue_full: Outage,
}

impl Reports {
    /// Called after an export, with the counts that include it. Returns the reports instead of logging them, so that no
    /// lock is held while they are logged: a subscriber may export spans itself.
    pub(super) fn after_export(&mut self, now: Instant, counts: &SpanCounts) -> NewReports {
        NewReports {
            export_failed: self.export_failed.check(now, counts.dropped_export_failed),
            queue_full: self.queue_full.check(now, counts.dropped_queue_full),
        }
    }
}

pub(super) struct NewReports {
    export_failed: Option<Report>,
    queue_full: Option<Report>,
}

impl NewReports {
    /// Logs the reports, with the result and the endpoint of the export.
    pub(super) fn write(self, result: &OTelSdkResult, destination: &Destination) {
        if let Some(report) = self.export_failed {
            let Attempt { endpoint, error } = destination.0.lock().clone();
            match report {
                Report::Losing(lost) => {
                    let returned = result.as_ref().err().map(ToString::to_string);
                    let error = error.or(returned);
                    tracing::warn!(target: TARGET, endpoint, error, lost, "span export fails");
                }
                Report::Over(lost) => {
                    tracing::info!(target: TARGET, endpoint, lost, "span export works again");
                }
            }
        }
        match self.queue_full {
            Some(Report::Losing(lost)) => {
                tracing::warn!(target: TARGET, lost, "spans are dropped: the export queue is full");
            }
            Some(Report::Over(lost)) => {
                tracing::info!(target: TARGET, lost, "the export queue has room again");
            }
            None => {}
        }
    }
}

const TARGET: &str = "tower_stream_trace::loss";

#[derive(Debug, PartialEq)]
enum Report {
    /// Number of spans lost since the last report.
    Losing(u64),
    /// Number of spans lost since the start of this outage.
    Over(u64),
}

/// One kind of loss.
#[derive(Debug, Default)]
struct Outage {
    /// Total number of lost spans when last checked, when last reported, and when the outage began.
    seen: u64,
    reported: u64,
    before: u64,
    warned_at: Option<Instant>,
    /// Whether the log says that spans are being lost.
    open: bool,
}

impl Outage {
    fn check(&mut self, now: Instant, lost: u64) -> Option<Report> {
        let losing = lost > self.seen;
        self.seen = lost;
        if !losing {
            return std::mem::take(&mut self.open).then(|| {
                self.reported = lost;
                Report::Over(lost - self.before)
            });
        }
        if (self.warned_at).is_some_and(|at| now.duration_since(at) < BETWEEN_WARNINGS) {
            return None;
        }
        self.warned_at = Some(now);
        let since_last = lost - self.reported;
        if !std::mem::replace(&mut self.open, true) {
            self.before = self.reported;
        }
        self.reported = lost;
        Some(Report::Losing(since_last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_warned_of_at_once_then_each_thirty_seconds_and_its_end_is_told() {
        let mut outage = Outage::default();
        let start = Instant::now();
        let mut check = |second, lost| outage.check(start + Duration::from_secs(second), lost);
        assert_eq!(check(0, 0), None);
        assert_eq!(check(1, 5), Some(Report::Losing(5)), "the first failure");
        assert_eq!(check(2, 6), None);
        assert_eq!(check(30, 9), None);
        assert_eq!(check(31, 20), Some(Report::Losing(15)));
        assert_eq!(check(32, 21), None);
        assert_eq!(check(33, 21), Some(Report::Over(21)));
        assert_eq!(check(34, 21), None, "told once");
    }

    #[test]
    fn a_receiver_that_comes_and_goes_does_not_flood_the_log() {
        let mut outage = Outage::default();
        let start = Instant::now();
        let mut check = |second, lost| outage.check(start + Duration::from_secs(second), lost);
        assert_eq!(check(1, 1), Some(Report::Losing(1)));
        assert_eq!(check(2, 1), Some(Report::Over(1)));
        for second in 3..=30 {
            // Every second export fails.
            let lost = 1 + (second - 1) / 2;
            assert_eq!(check(second, lost), None, "{second}");
        }
        assert_eq!(check(31, 20), Some(Report::Losing(19)));
        assert_eq!(check(32, 20), Some(Report::Over(19)));
    }
}
