//! The figures of the server: of its drain for `/status`, of its streams for `/live`.

use std::{
    collections::BTreeMap,
    future::Future,
    task::{Context, Poll, Waker},
};

use axum::http::Request;
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::Service;
use tower_stream_core::FaultKind;

use crate::State;

/// The state of the drain, and how many requests it has counted.
pub(crate) fn of_drain(state: &State) -> Value {
    let stats = state.drain.stats();
    let left = state.drain.deadline();
    let left = left.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    json!({
        "state": stats.state.as_str(),
        "in_flight": stats.in_flight,
        "served": stats.served,
        "refused": stats.refused,
        "ended_early": stats.ended_early,
        "aborted": stats.aborted,
        "deadline_ms": left.map(|left| left.as_millis() as u64),
    })
}

/// Routes of the page itself. Their figures would hide those of the streams that the page shows.
const OWN_ROUTES: [&str; 3] = ["/", "/live", "/page/{file}"];

/// The figures of `/live`: those of the drain, and what the metrics say of all streams since the start.
pub(crate) fn live(state: &State) -> Value {
    let metrics = scrape(state);
    let samples = || metrics.lines().filter_map(Sample::parse);
    let mut outcomes =
        BTreeMap::from(["complete", "aborted", "error", "panic"].map(|name| (name, 0.0)));
    let (mut active, mut slow_readers) = (0.0, 0.0);
    let mut first_chunk = Histogram::default();
    let mut gap = Histogram::default();
    let mut by_index: BTreeMap<u64, Histogram> = BTreeMap::new();
    for sample in samples() {
        if sample
            .label("http_route")
            .is_some_and(|route| OWN_ROUTES.contains(&route))
        {
            continue;
        }
        match sample.name {
            "http_server_response_stream_active" => active += sample.value,
            "http_server_response_stream_count_total" => {
                let outcome = sample.label("outcome").unwrap_or_default();
                if let Some(count) = outcomes.get_mut(outcome) {
                    *count += sample.value;
                }
                if sample.label("error_type") == Some(FaultKind::SlowReader.as_str()) {
                    slow_readers += sample.value;
                }
            }
            "http_server_response_time_to_first_chunk_seconds_bucket" => first_chunk.add(&sample),
            "http_server_response_chunk_gap_seconds_bucket" => {
                gap.add(&sample);
                if let Some(Ok(index)) = sample.label("chunk_index_bucket").map(str::parse) {
                    by_index.entry(index).or_default().add(&sample);
                }
            }
            _ => {}
        }
    }
    let mut figures = of_drain(state);
    let bounds: Vec<Value> = gap.bounds().map(millis).collect();
    let rows: Vec<Value> = by_index
        .into_iter()
        .map(|(index, histogram)| json!({ "index": index, "counts": histogram.counts() }))
        .collect();
    let streams = json!({
        "active": active,
        "connections": state.connections.open(),
        "outcomes": outcomes,
        "slow_readers": slow_readers,
        "first_chunk_ms": first_chunk.quantiles(),
        "gap_ms": gap.quantiles(),
        "gaps_by_index": { "upper_ms": bounds, "rows": rows },
        "may_drain": state.args.page_may_drain,
        "idle_timeout_ms": state.args.idle_timeout.as_millis() as u64,
        "write_stall_ms": state.args.write_stall.as_millis() as u64,
    });
    if let (Value::Object(figures), Value::Object(streams)) = (&mut figures, streams) {
        figures.extend(streams);
    }
    figures
}

/// All metrics as Prometheus text. The service is always ready, and so is its response.
fn scrape(state: &State) -> String {
    let mut prometheus = state.prometheus.clone();
    let mut response = std::pin::pin!(prometheus.call(Request::new(())));
    let mut cx = Context::from_waker(Waker::noop());
    match response.as_mut().poll(&mut cx) {
        Poll::Ready(Ok(response)) => response.into_body(),
        Poll::Ready(Err(never)) => match never {},
        Poll::Pending => String::new(),
    }
}

/// One line of Prometheus text: `name{label="value",..} 1.5`.
#[derive(Debug)]
struct Sample<'t> {
    name: &'t str,
    labels: &'t str,
    value: f64,
}

impl<'t> Sample<'t> {
    /// `None` for comments.
    fn parse(line: &'t str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        Some(Self {
            name,
            labels: labels.strip_suffix('}').unwrap_or(labels),
            value: value.parse().ok()?,
        })
    }

    /// The value of a label. No value that this program reads contains a quote or a comma.
    fn label(&self, name: &str) -> Option<&'t str> {
        self.labels.split("\",").find_map(|label| {
            let value = label.strip_prefix(name)?.strip_prefix("=\"")?;
            Some(value.strip_suffix('"').unwrap_or(value))
        })
    }
}

/// A histogram summed over routes: for each upper bound in seconds, how many values are at or below it.
#[derive(Debug, Default)]
struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    fn add(&mut self, sample: &Sample<'_>) {
        let Some(Ok(bound)) = sample.label("le").map(str::parse::<f64>) else {
            return;
        };
        match self.0.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, count)) => *count += sample.value,
            // The bounds of one instrument are always the same, and in order.
            None => self.0.push((bound, sample.value)),
        }
    }

    /// The upper bounds in seconds; the last is infinite.
    fn bounds(&self) -> impl Iterator<Item = f64> {
        self.0.iter().map(|&(bound, _)| bound)
    }

    /// How many values each bucket has, without those below it.
    fn counts(&self) -> Vec<f64> {
        let mut below = 0.0;
        let counts = self.0.iter();
        counts
            .map(|&(_, count)| count - std::mem::replace(&mut below, count))
            .collect()
    }

    /// In milliseconds, interpolated within a bucket as Prometheus does; `null` without values.
    fn quantiles(&self) -> Value {
        let count = self.0.last().map_or(0.0, |&(_, count)| count);
        let quantile = |q: f64| self.quantile(q).map_or(Value::Null, millis);
        json!({ "count": count, "p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99) })
    }

    fn quantile(&self, q: f64) -> Option<f64> {
        let rank = q * self.0.last().filter(|(_, count)| *count > 0.0)?.1;
        let (mut lower, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.0 {
            if count >= rank && count > below {
                // The last bucket has no upper bound: its values are at least as large as its lower one.
                let width = if bound.is_finite() {
                    bound - lower
                } else {
                    0.0
                };
                return Some(lower + width * (rank - below) / (count - below));
            }
            (lower, below) = (bound, count);
        }
        None
    }
}

/// Seconds as milliseconds, to a microsecond; `null` if infinite.
fn millis(seconds: f64) -> Value {
    json!((seconds * 1e6).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_its_labels() {
        let sample =
            Sample::parse(r#"a_bucket{le="+Inf",http_route="/files/{*path}"} 17"#).unwrap();
        assert_eq!((sample.name, sample.value), ("a_bucket", 17.0));
        assert_eq!(sample.label("http_route"), Some("/files/{*path}"));
        assert_eq!(sample.label("le"), Some("+Inf"));
        assert_eq!(sample.label("route"), None);
        assert_eq!(Sample::parse("up 1").unwrap().name, "up");
        assert!(Sample::parse("# TYPE up gauge").is_none());
    }

    #[test]
    fn quantiles_are_interpolated_within_a_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantiles()["p50"], Value::Null);
        for line in [
            r#"x{le="0.1"} 0"#,
            r#"x{le="0.2"} 50"#,
            r#"x{le="+Inf"} 50"#,
            r#"x{le="0.1"} 0"#,
            r#"x{le="0.2"} 40"#,
            r#"x{le="+Inf"} 50"#,
        ] {
            histogram.add(&Sample::parse(line).unwrap());
        }
        assert_eq!(histogram.counts(), [0.0, 90.0, 10.0]);
        let quantiles = histogram.quantiles();
        assert_eq!(quantiles["count"], 100.0);
        assert_eq!(quantiles["p90"], 200.0);
        assert_eq!(quantiles["p50"], 155.556);
        assert_eq!(quantiles["p99"], 200.0, "beyond the last bound");
    }
}
