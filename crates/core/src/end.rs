//! The ways a body can end.

use std::fmt;

use crate::Cause;

/// How a body ended. Each observed body reports exactly one end.
///
/// `Complete` means that the whole body was passed to the server, not that the client has received it: the server may
/// still have megabytes in its buffers when the body is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The body was passed on completely, or there was none.
    Complete,
    /// The body failed, or the future of the response did, for this cause. This includes panics.
    Failed(Cause),
    /// The body was dropped before its end: the client disconnected, or a layer outside of all observers dropped it.
    Dropped,
}

impl StreamEnd {
    pub(crate) fn of_cause(cause: &Cause) -> Self {
        Self::Failed(cause.clone())
    }

    /// The outcome: one of four values, the same in spans, metrics and logs.
    ///
    /// A stream that a drain ended early, or that its client did not read, is [`Outcome::Aborted`], like one that was
    /// dropped.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Complete => Outcome::Complete,
            Self::Dropped => Outcome::Aborted,
            Self::Failed(cause) => cause.kind().outcome(),
        }
    }

    /// Returns whether this is an error of the server, see
    /// [`FaultKind::is_server_error`](crate::FaultKind::is_server_error).
    #[must_use]
    pub fn is_server_error(&self) -> bool {
        match self {
            Self::Failed(cause) => cause.kind().is_server_error(),
            Self::Complete | Self::Dropped => false,
        }
    }

    /// The value of OpenTelemetry's `error.type`, `None` for [`StreamEnd::Complete`]. Low cardinality.
    #[must_use]
    pub fn error_type(&self) -> Option<&'static str> {
        match self {
            Self::Complete => None,
            Self::Failed(cause) => Some(cause.kind().as_str()),
            Self::Dropped => Some("dropped"),
        }
    }
}

impl fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Failed(cause) => write!(f, "failed: {cause} ({})", cause.kind()),
            Self::Dropped => f.write_str("dropped"),
        }
    }
}

/// The outcome of a [`StreamEnd`] as a value for attributes and labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The body was passed on completely.
    Complete,
    /// The client disconnected or did not read, or a drain ended the stream.
    Aborted,
    /// The body failed.
    Error,
    /// The body or its handler panicked.
    Panic,
}

impl Outcome {
    /// `complete`, `aborted`, `error` or `panic`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Aborted => "aborted",
            Self::Error => "error",
            Self::Panic => "panic",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
