//! The ways a stream can end, as its reader sees them.

use std::fmt;

use serde::Serialize;

/// How one stream ended. Each stream has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// All of it arrived, and a digest that was announced is right.
    Whole,
    /// The server ended it early and said so in the stream: it is going away.
    Drained,
    /// The stream's own last record is an error.
    InBandError,
    /// It was ended cleanly in the middle of a record, so its reader drops the half or takes it for a whole; or its
    /// closing record (an error, a farewell) was written into the middle of another.
    HalfRecord,
    /// The connection or the HTTP/2 stream ended before the response did.
    Cut,
    /// The whole body arrived and is not what its digest says.
    DigestMismatch,
    /// The whole body arrived and is not what it was expected to be (`--expect-..`), or the head has a status of 3xx:
    /// redirects are not followed.
    Unexpected,
    /// The head has a status of 4xx.
    Status4xx,
    /// The head has a status of 5xx.
    Status5xx,
    /// No connection could be made, or it was over before anything of the request was sent.
    ConnectFailure,
    /// The connection was made and ended without a response.
    NoResponse,
    /// The HTTP/2 server has sent a GOAWAY that names an earlier stream: this one was not processed, and may be sent again.
    GoneAway,
    /// The HTTP/2 server has refused the stream unprocessed (REFUSED_STREAM): it may be sent again.
    Refused,
    /// Nothing came for longer than `--idle-timeout`, or the stream took longer than `--timeout`.
    Timeout,
    /// It had not ended when the run was over (`--duration` and `--grace`, or Ctrl-C).
    Running,
    /// It was not read on purpose (`--stall`).
    Stalled,
}

impl Ending {
    /// Every ending, in the order of the report.
    pub const ALL: [Self; 16] = [
        Self::Whole,
        Self::Running,
        Self::Drained,
        Self::InBandError,
        Self::HalfRecord,
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

    /// Its name in the reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Drained => "drained",
            Self::InBandError => "in_band_error",
            Self::HalfRecord => "half_record",
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
