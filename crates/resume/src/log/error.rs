//! The errors of a log.

use std::{error::Error, fmt};

use tower_stream_core::BoxError;

/// The error of an operation of a [`StreamLog`](super::StreamLog).
#[derive(Debug)]
pub struct LogError {
    kind: LogErrorKind,
    source: Option<BoxError>,
}

/// Why an operation failed, and what the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogErrorKind {
    /// The log has no such stream: it was removed, or never existed.
    NotFound,
    /// There is a stream with this id.
    Exists,
    /// The stream was taken over, so the caller is no longer its producer. It must stop.
    Fenced,
    /// The stream has its end. Nothing follows.
    Ended,
    /// The producer of the stream holds its lease.
    Held,
    /// The offset is not the next one, so the log and the producer disagree on what is stored: the log may have lost data.
    Conflict {
        /// The next offset.
        next: u64,
    },
    /// The stream or the log has no room. Try again later.
    Full,
    /// The log can never store an entry of this size.
    TooLarge,
    /// The log did not answer, or its answer makes no sense. The operation may have been carried out. Try again.
    Unavailable,
}

impl LogError {
    /// An error of this kind, with the error of the store that caused it.
    pub fn new(kind: LogErrorKind, source: impl Into<BoxError>) -> Self {
        Self {
            kind,
            source: Some(source.into()),
        }
    }

    /// The store did not answer: [`LogErrorKind::Unavailable`].
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::new(LogErrorKind::Unavailable, source)
    }

    /// The kind of error.
    #[must_use]
    pub const fn kind(&self) -> LogErrorKind {
        self.kind
    }
}

impl From<LogErrorKind> for LogError {
    fn from(kind: LogErrorKind) -> Self {
        Self { kind, source: None }
    }
}

impl fmt::Display for LogErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("the log has no such stream"),
            Self::Exists => f.write_str("the log already has a stream with this id"),
            Self::Fenced => f.write_str("another producer has taken the stream over"),
            Self::Ended => f.write_str("the stream has ended"),
            Self::Held => f.write_str("the producer of the stream holds its lease"),
            Self::Conflict { next } => write!(f, "the next offset of the stream is {next}"),
            Self::Full => f.write_str("the log has no room"),
            Self::TooLarge => f.write_str("the entry is too large for the log"),
            Self::Unavailable => f.write_str("the log is unavailable"),
        }
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
    }
}

impl Error for LogError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
