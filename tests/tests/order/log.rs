//! What the log says of how responses ended.

use serde_json::Value;

use crate::{
    layers::{Piece, Stack},
    probe::line,
};

/// The lines of some requests that are over.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// What was logged of failures, level first.
    failures: Vec<Value>,
    /// Of every request span one when it closes.
    closed: Vec<Value>,
    /// The access log.
    access: Vec<Value>,
    /// Other lines that call for an operator.
    errors: Vec<Value>,
}

impl Log {
    pub(crate) fn new(lines: Vec<Value>) -> Self {
        let mut log = Self::default();
        for line in lines {
            let kind = if line["target"] == "tower_stream_trace" && line["message"] == "close" {
                &mut log.closed
            } else if line["target"] == "tower_stream_trace::access" {
                &mut log.access
            } else if line.get("outcome").is_some() {
                &mut log.failures
            } else if line["message"] == "a response panicked after its last record" {
                // This line is only a note, because the response is complete.
                continue;
            } else if line["level"] == "ERROR" {
                &mut log.errors
            } else {
                continue;
            };
            kind.push(line);
        }
        log
    }

    /// What was logged of failures: level, outcome, kind.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.iter().map(told_by_failure).collect()
    }

    /// `requests` are over and ended like this: the request span says so when it closes, and the error writer in one
    /// line for each that failed or that a drain ended, wherever the two stand.
    pub(crate) fn check(&self, stack: &Stack, end: &str, requests: usize) {
        let closed: Vec<_> = self.closed.iter().map(told_by_span).collect();
        let spans = if stack.has(Piece::RequestSpan) {
            requests
        } else {
            0
        };
        assert_eq!(closed, vec![end; spans], "told by closed spans");
        let lines = self.access.iter().map(told_by_access);
        assert_eq!(lines.collect::<Vec<_>>(), vec![end; spans], "access log");
        let level = match end {
            "complete" | "aborted dropped" => None,
            // Drains, and gRPC statuses that the client causes, are logged at INFO.
            "aborted drain" | "error NOT_FOUND" | "error RESOURCE_EXHAUSTED" => Some("INFO"),
            _ => Some("ERROR"),
        };
        let expected = match level {
            Some(level) if stack.has(Piece::Errors) => vec![format!("{level} {end}"); requests],
            _ => Vec::new(),
        };
        assert_eq!(
            self.failures(),
            expected,
            "told by the log: {:?}",
            self.failures
        );
        assert!(self.errors.is_empty(), "nobody's: {:?}", self.errors);
        for failure in &self.failures {
            assert_ne!(text(&failure["error"]), "", "why: {failure}");
            let named = stack.is_inside(Piece::Errors, Piece::RequestId);
            assert_eq!(failure.get("request_id").is_some(), named, "{failure}");
            let spanned = stack.is_inside(Piece::Errors, Piece::RequestSpan);
            assert_eq!(failure.get("spans").is_some(), spanned, "{failure}");
        }
    }
}

fn told_by_access(logged: &Value) -> String {
    line(text(&logged["outcome"]), text(&logged["error.type"]))
}

fn told_by_failure(logged: &Value) -> String {
    let outcome = line(text(&logged["outcome"]), text(&logged["kind"]));
    format!("{} {outcome}", text(&logged["level"]))
}

/// What the request span said of its end, when it closed.
fn told_by_span(closed: &Value) -> String {
    let span = closed.get("span").expect("it is logged in its span");
    line(text(&span["stream.outcome"]), text(&span["error.type"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
