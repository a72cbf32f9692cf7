//! The ways a stream can end, as seen by the client.

use std::fmt;

use serde::Serialize;

/// How a stream ended. Each stream has exactly one ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The body is complete, and all announced digests match.
    Whole,
    /// The server is shutting down: it ended the stream early with a drain record.
    Drained,
    /// The last record of the stream is an error.
    InBandError,
    /// The body ended cleanly in the middle of a record, so a client drops that record or takes it for a complete one.
    /// Also used when a final error or drain record was written into the middle of another record.
    HalfRecord,
    /// It was ended cleanly without the last record of its dialect (`--dialect`).
    Incomplete,
    /// The connection or the HTTP/2 stream ended before the response did.
    Cut,
    /// The body is complete and does not match its digest.
    DigestMismatch,
    /// The body is complete and does not meet an `--expect-..` option, or the status is 3xx (redirects are not
    /// followed).
    Unexpected,
    /// The response has a 4xx status.
    Status4xx,
    /// The response has a 5xx status.
    Status5xx,
    /// No connection could be made, or it closed before any byte of the request was sent.
    ConnectFailure,
    /// The connection closed without a response.
    NoResponse,
    /// The HTTP/2 server sent a GOAWAY with a lower stream id: it did not process this request, so a client may retry
    /// it.
    GoneAway,
    /// The HTTP/2 server reset the stream with REFUSED_STREAM: it did not process this request, so a client may retry
    /// it.
    Refused,
    /// No chunk arrived for `--idle-timeout`, or the stream took longer than `--timeout`.
    Timeout,
    /// The stream had not ended at the end of the run (`--duration` plus `--grace`, or Ctrl-C).
    Running,
    /// The stream was deliberately not read (`--stall`).
    Stalled,
}

impl Ending {
    /// Every ending, in the order of the report.
    pub const ALL: [Self; 17] = [
        Self::Whole,
        Self::Running,
        Self::Drained,
        Self::InBandError,
        Self::HalfRecord,
        Self::Incomplete,
        Self::Cut,
        Self::DigestMismatch,
        Self::Unexpected,
        Self::Status4xx,
        Self::Status5xx,
        Self::ConnectFailure,
        Self::NoResponse,
        Self::GoneAway,
        Self::Refused,
        Self::Timeout,
        Self::Stalled,
    ];

    /// The name in the reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Drained => "drained",
            Self::InBandError => "in_band_error",
            Self::HalfRecord => "half_record",
            Self::Incomplete => "incomplete",
            Self::Cut => "cut",
            Self::DigestMismatch => "digest_mismatch",
            Self::Unexpected => "unexpected",
            Self::Status4xx => "status_4xx",
            Self::Status5xx => "status_5xx",
            Self::ConnectFailure => "connect_failure",
            Self::NoResponse => "no_response",
            Self::GoneAway => "gone_away",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Running => "running",
            Self::Stalled => "stalled",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
