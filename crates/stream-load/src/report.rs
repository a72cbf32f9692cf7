//! The result of a run.

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::{
    Args, Ending, Percent, html,
    tally::{Tally, Times},
};

/// The measurements of a run and its thresholds.
#[derive(Debug)]
pub struct Report {
    tally: Tally,
    elapsed: Duration,
    thresholds: [Threshold; 6],
}

#[derive(Clone, Copy, Debug)]
struct Threshold {
    name: &'static str,
    endings: &'static [Ending],
    most: Percent,
}

/// Whether a run met all its thresholds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The run met all thresholds.
    Pass,
    /// One sentence for each threshold that was not met.
    Fail(Vec<String>),
}

impl Verdict {
    /// Returns whether this is [`Verdict::Pass`].
    #[must_use]
    pub fn is_pass(&self) -> bool {
        *self == Self::Pass
    }
}

/// Enough for a curve.
const QUANTILES: [f64; 9] = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0];

/// The columns of the table.
const COLUMNS: [f64; 4] = [0.5, 0.9, 0.99, 1.0];

impl Report {
    pub(crate) fn new(args: &Args, tally: Tally, elapsed: Duration) -> Self {
        let thresholds = [
            Threshold {
                name: "connect failures",
                endings: &[
                    Ending::ConnectFailure,
                    Ending::NoResponse,
                    Ending::GoneAway,
                    Ending::Refused,
                ],
                most: args.max_connect_failures,
            },
            Threshold {
                name: "4xx",
                endings: &[Ending::Status4xx],
                most: args.max_4xx,
            },
            Threshold {
                name: "5xx",
                endings: &[Ending::Status5xx],
                most: args.max_5xx,
            },
            Threshold {
                name: "cut streams",
                endings: &[
                    Ending::Cut,
                    Ending::HalfRecord,
                    Ending::DigestMismatch,
                    Ending::Unexpected,
                    Ending::Timeout,
                ],
                most: args.max_cut,
            },
            Threshold {
                name: "error records",
                endings: &[Ending::InBandError],
                most: args.max_errors,
            },
            Threshold {
                name: "streams still running",
                endings: &[Ending::Running],
                most: args.max_running,
            },
        ];
        Self {
            tally,
            elapsed,
            thresholds,
        }
    }

    /// Number of streams with this ending.
    #[must_use]
    pub fn count(&self, ending: Ending) -> u64 {
        self.tally.of(ending)
    }

    /// Number of streams.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.tally.streams()
    }

    /// Total size of all bodies, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tally.bytes
    }

    /// Number of streams whose digest matched.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.tally.verified
    }

    /// Compares the measurements with the thresholds. A run without any stream fails, and so does a run in which no
    /// stream got a response.
    pub fn verdict(&self) -> Verdict {
        let streams = self.streams();
        let mut broken: Vec<String> = self
            .thresholds
            .iter()
            .filter_map(|threshold| {
                let count: u64 = threshold
                    .endings
                    .iter()
                    .map(|ending| self.count(*ending))
                    .sum();
                (!threshold.most.allows(count, streams)).then(|| {
                    let share = 100.0 * count as f64 / streams as f64;
                    format!(
                        "{}: {share:.2}% ({count} of {streams}), at most {} allowed",
                        threshold.name, threshold.most
                    )
                })
            })
            .collect();
        if streams == 0 {
            broken.push("no stream was run".to_owned());
        } else if self.tally.service.head.is_empty() {
            broken.push("no stream was answered".to_owned());
        }
        if broken.is_empty() {
            Verdict::Pass
        } else {
            Verdict::Fail(broken)
        }
    }

    /// Number of streams that started more than 10 ms after they were due by `--rate`.
    #[must_use]
    pub fn behind_schedule(&self) -> u64 {
        self.tally.lag.len()
    }

    /// Number of streams that were due by `--rate` within `--duration` but were not started.
    #[must_use]
    pub fn not_begun(&self) -> u64 {
        self.tally.not_begun
    }

    /// Returns the report as one JSON object, an interface that the README of this crate describes. Times are in
    /// seconds.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let endings: Map<String, Value> = Ending::ALL
            .iter()
            .map(|ending| (ending.as_str().to_owned(), self.count(*ending).into()))
            .collect();
        let reasons: Vec<Value> = self
            .tally
            .reasons
            .iter()
            .map(|((ending, reason), count)| json!({"ending": ending, "reason": reason, "count": count}))
            .collect();
        let (pass, broken) = match self.verdict() {
            Verdict::Pass => (true, Vec::new()),
            Verdict::Fail(broken) => (false, broken),
        };
        let timeline = &self.tally.timeline;
        let points = timeline.points.iter().map(|point| {
            let mean = point.gap_sum.as_secs_f64() / point.gaps.max(1) as f64;
            json!({
                "chunks": point.chunks,
                "gap_mean": mean,
                "gap_max": point.gap_max.as_secs_f64(),
                "ended": point.ended,
            })
        });
        json!({
            "version": 1,
            "streams": self.streams(),
            "elapsed": self.elapsed.as_secs_f64(),
            "chunks": self.tally.chunks,
            "bytes": self.tally.bytes,
            "records": self.tally.records,
            "digests_verified": self.tally.verified,
            "endings": endings,
            "reasons": reasons,
            "latency": times(&self.tally.latency),
            "service_time": times(&self.tally.service),
            "chunk_gap": quantiles(&self.tally.gap),
            "behind_schedule": quantiles(&self.tally.lag),
            "not_begun": self.tally.not_begun,
            "timeline": {
                "step": timeline.step.as_secs_f64(),
                "points": points.collect::<Vec<_>>(),
            },
            "pass": pass,
            "broken_thresholds": broken,
        })
    }

    /// Returns the report as an HTML page with plots, which needs nothing but itself. It is made of
    /// [`to_json`](Self::to_json).
    #[must_use]
    pub fn to_html(&self) -> String {
        html::page(&self.to_json())
    }
}

fn times(times: &Times) -> Value {
    json!({
        "head": quantiles(&times.head),
        "first_chunk": quantiles(&times.first_chunk),
        "duration": quantiles(&times.duration),
    })
}

fn quantiles(histogram: &Histogram<u64>) -> Value {
    let seconds = |micros: u64| micros as f64 / 1e6;
    let mut object = Map::new();
    object.insert("count".to_owned(), histogram.len().into());
    if !histogram.is_empty() {
        object.insert("mean".to_owned(), (histogram.mean() / 1e6).into());
        for quantile in QUANTILES {
            let name = quantile_name(quantile);
            object.insert(name, seconds(histogram.value_at_quantile(quantile)).into());
        }
    }
    Value::Object(object)
}

fn quantile_name(quantile: f64) -> String {
    if quantile >= 1.0 {
        "max".to_owned()
    } else {
        format!("p{}", quantile * 100.0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        let seconds = self.elapsed.as_secs_f64();
        let per_second = |count: u64| count as f64 / seconds.max(1e-9);
        writeln!(
            f,
            "{} streams in {seconds:.1} s: {} chunks ({:.0}/s), {} records, {:.1} MB ({:.1} MB/s)",
            self.streams(),
            tally.chunks,
            per_second(tally.chunks),
            tally.records,
            tally.bytes as f64 / 1e6,
            per_second(tally.bytes) / 1e6,
        )?;
        if tally.verified > 0 {
            writeln!(f, "{} digests verified", tally.verified)?;
        }
        if !tally.lag.is_empty() || tally.not_begun > 0 {
            writeln!(
                f,
                "behind schedule: {} streams, by {:.0} ms at most; {} more were due and not begun",
                tally.lag.len(),
                tally.lag.max() as f64 / 1e3,
                tally.not_begun,
            )?;
        }
        writeln!(f)?;
        for ending in Ending::ALL {
            let count = self.count(ending);
            if count > 0 {
                let share = 100.0 * count as f64 / self.streams() as f64;
                writeln!(f, "  {ending:<16} {count:>9}  {share:6.2}%")?;
            }
        }
        for ((ending, reason), count) in &tally.reasons {
            writeln!(f, "    {ending}: {reason} ({count})")?;
        }
        writeln!(
            f,
            "\n  {:<18} {:>10} {:>10} {:>10} {:>10}",
            "", "p50", "p90", "p99", "max"
        )?;
        let (latency, service) = (&tally.latency, &tally.service);
        for (name, histogram) in [
            ("latency: head", &latency.head),
            ("  first chunk", &latency.first_chunk),
            ("  whole stream", &latency.duration),
            ("service time: head", &service.head),
            ("  first chunk", &service.first_chunk),
            ("  whole stream", &service.duration),
            ("chunk gap", &tally.gap),
        ] {
            if !histogram.is_empty() {
                write!(f, "  {name:<18}")?;
                for quantile in COLUMNS {
                    let millis = histogram.value_at_quantile(quantile) as f64 / 1e3;
                    write!(f, " {millis:>7.2} ms")?;
                }
                writeln!(f)?;
            }
        }
        match self.verdict() {
            Verdict::Pass => write!(f, "\npass"),
            Verdict::Fail(broken) => write!(f, "\nfail: {}", broken.join("; ")),
        }
    }
}
