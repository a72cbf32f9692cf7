//! What a run found.

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::{
    Args, Ending, Percent,
    tally::{Tally, Times},
};

/// The figures of a run and the thresholds they were held against.
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

/// Whether every threshold held.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// All of them.
    Pass,
    /// These did not, each in a sentence.
    Fail(Vec<String>),
}

impl Verdict {
    /// Whether it is [`Verdict::Pass`].
    #[must_use]
    pub fn is_pass(&self) -> bool {
        *self == Self::Pass
    }
}

const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 1.0];

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

    /// How many streams ended this way.
    #[must_use]
    pub fn count(&self, ending: Ending) -> u64 {
        self.tally.of(ending)
    }

    /// How many streams there were.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.tally.streams()
    }

    /// Bytes of all bodies.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tally.bytes
    }

    /// How many streams carried a digest that was right.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.tally.verified
    }

    /// Holds the figures against the thresholds. A run without a stream fails, and so does one in which no
    /// stream was answered.
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

    /// How many streams began later than they were due by `--rate`, by more than 10 ms.
    #[must_use]
    pub fn behind_schedule(&self) -> u64 {
        self.tally.lag.len()
    }

    /// How many streams were due by `--rate` before the end of `--duration` and did not begin.
    #[must_use]
    pub fn not_begun(&self) -> u64 {
        self.tally.not_begun
    }

    /// The report as one JSON object. Times are in seconds.
    ///
    /// `latency` has the times from when a stream was due, `service_time` those from its actual start, each to the
    /// response head, to the first chunk and to the end of a stream that was read to its end. They differ only with
    /// `--rate`. `behind_schedule` is by how much the streams that began late did so.
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
        json!({
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
            "pass": pass,
            "broken_thresholds": broken,
        })
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
                for quantile in QUANTILES {
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
