//! The plain dialects: streams of which no more than the content type is known.

use serde_json::{Map, Value, json};

use super::{Dialect, ErrorReport, KeepAlive};
use crate::StreamKind;

impl Dialect {
    pub(super) const SSE: Self = Self {
        error: |report| format!("event: error\ndata: {}\n\n", error(report)),
        // Without an `id:`, so that the client resumes after the last event that it received.
        farewell: Some(|report| {
            let (drain, ms) = (drain(report), milliseconds(report));
            format!("event: drain\ndata: {drain}\nretry: {ms}\n\n")
        }),
        keep_alive: KeepAlive::CommentUnlessIds,
        ..Self::without_forms("sse", StreamKind::Sse)
    };

    pub(super) const JSON_LINES: Self = Self {
        error: |report| format!("{}\n", error(report)),
        farewell: Some(|report| format!("{{\"drain\":{}}}\n", drain(report))),
        ..Self::without_forms("json-lines", StreamKind::JsonLines)
    };

    /// RFC 7464 begins each text with a record separator.
    pub(super) const JSON_SEQ: Self = Self {
        error: |report| format!("\x1e{}\n", error(report)),
        farewell: Some(|report| format!("\x1e{{\"drain\":{}}}\n", drain(report))),
        ..Self::without_forms("json-seq", StreamKind::JsonSeq)
    };
}

fn error(report: &ErrorReport<'_>) -> Value {
    let mut members = Map::new();
    members.insert("kind".to_owned(), report.kind().public_name().into());
    members.insert("status".to_owned(), report.status().as_u16().into());
    members.insert("message".to_owned(), report.message().into());
    if let Some(id) = report.request_id() {
        members.insert("request_id".to_owned(), id.as_str().into());
    }
    json!({ "error": members })
}

fn milliseconds(report: &ErrorReport<'_>) -> u64 {
    let wait = report.retry_after().unwrap_or_default();
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

fn drain(report: &ErrorReport<'_>) -> String {
    let detail = Value::from(report.message());
    let ms = milliseconds(report);
    format!("{{\"reason\":\"drain\",\"detail\":{detail},\"retry_ms\":{ms}}}")
}
