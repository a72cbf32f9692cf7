//! The result of an examination.

use std::fmt;

use http::Uri;
use serde::Serialize;

use super::probe::Seen;

/// What the doctor found. [`Diagnosis::to_json`] and `Display` write it out.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The version of this format: 1. It rises when a field is removed or changes its meaning.
    pub version: u32,
    /// The stream that was examined.
    pub url: String,
    /// Milliseconds from the request to the response head.
    pub head_ms: u64,
    /// Milliseconds from the request to the first event. `None` if none came.
    pub first_event_ms: Option<u64>,
    /// The number of events that were read.
    pub events: u64,
    /// What each check found, in the order of the checks.
    pub findings: Vec<Finding>,
}

/// What one check found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// Which check.
    pub check: Check,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen.
    pub text: String,
    /// What mends it. `None` unless it is a fault.
    pub remedy: Option<&'static str>,
}

/// A check of the doctor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Check {
    /// The HTTP version of the response.
    HttpVersion,
    /// A length that a stream cannot have, or no framing at all.
    ContentLength,
    /// A cache has kept the stream, or may keep it.
    Cached,
    /// Announced trailers that do not arrive.
    Trailers,
    /// Events that are held back.
    Buffered,
    /// A stream that is compressed and thereby held back.
    Compressed,
    /// A stream that was cut while events came.
    Cut,
    /// A stream that was cut while it was silent.
    IdleCut,
    /// A cut that looks like the end.
    Laundered,
    /// Heartbeats that do not arrive.
    Heartbeats,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is wrong.
    Good,
    /// Could be better, or could not be decided.
    Note,
    /// Something harms the stream.
    Fault,
}

impl Diagnosis {
    pub(super) fn new(url: &Uri, seen: &Seen) -> Self {
        Self {
            version: 1,
            url: url.to_string(),
            head_ms: seen.head.as_millis() as u64,
            first_event_ms: seen.events.first().map(|event| event.at.as_millis() as u64),
            events: seen.events.len() as u64,
            findings: Vec::new(),
        }
    }

    pub(super) fn good(&mut self, check: Check, text: impl Into<String>) {
        self.add(check, Severity::Good, text.into(), None);
    }

    pub(super) fn note(&mut self, check: Check, text: impl Into<String>) {
        self.add(check, Severity::Note, text.into(), None);
    }

    pub(super) fn fault(&mut self, check: Check, text: impl Into<String>, remedy: &'static str) {
        self.add(check, Severity::Fault, text.into(), Some(remedy));
    }

    fn add(
        &mut self,
        check: Check,
        severity: Severity,
        text: String,
        remedy: Option<&'static str>,
    ) {
        self.findings.push(Finding {
            check,
            severity,
            text,
            remedy,
        });
    }

    /// Returns whether there is a fault.
    #[must_use]
    pub fn has_fault(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.severity == Severity::Fault)
    }

    /// The diagnosis as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self
            .first_event_ms
            .map_or("none".to_owned(), |ms| format!("after {ms} ms"));
        writeln!(f, "{}", self.url)?;
        write!(
            f,
            "head after {} ms, first event {first}, {} events",
            self.head_ms, self.events
        )?;
        for finding in &self.findings {
            let mark = match finding.severity {
                Severity::Good => "ok   ",
                Severity::Note => "note ",
                Severity::Fault => "FAULT",
            };
            let check = serde_json::to_value(finding.check).unwrap_or_default();
            write!(
                f,
                "\n{mark} {}: {}",
                check.as_str().unwrap_or_default(),
                finding.text
            )?;
            if let Some(remedy) = finding.remedy {
                write!(f, "\n      mend it: {remedy}")?;
            }
        }
        Ok(())
    }
}
