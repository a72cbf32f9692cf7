//! How a stream ended, as a log keeps it.

use std::fmt;

use tower_stream_core::Cause;

/// How the producer of a stream ended. It is stored, so everyone who resumes the stream later gets the same end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The stream is complete.
    Complete,
    /// The stream failed for this cause. A stream that a client cancelled has the kind
    /// [`Cancelled`](tower_stream_core::FaultKind::Cancelled), and one whose producer died
    /// [`ProducerLost`](tower_stream_core::FaultKind::ProducerLost).
    Failed(Cause),
}

impl End {
    /// The cause of the failure, if the stream failed.
    #[must_use]
    pub const fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Complete => None,
            Self::Failed(cause) => Some(cause),
        }
    }

    /// `complete`, or the name of the kind of failure.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed(cause) => cause.kind().as_str(),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Failed(cause) => write!(f, "failed: {cause} ({})", cause.kind()),
        }
    }
}
