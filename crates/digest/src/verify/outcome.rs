//! What came of a check.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{Method, Uri};
use tower_stream_core::{Cause, FaultKind, StreamError};

use crate::DigestValue;

/// What came of checking one body. Reported once for each body that something was promised of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verification {
    /// The method of the request.
    pub method: Method,
    /// The URI of the request.
    pub uri: Uri,
    /// The verdict.
    pub verdict: Verdict,
    /// The digest that was promised, when one could be read. Of several, the one that the body does not have, or else the
    /// first.
    pub expected: Option<DigestValue>,
    /// The digest of the bytes by the algorithm of `expected`, when all of them were seen.
    pub actual: Option<DigestValue>,
    /// The declared length, if there was one.
    pub declared: Option<u64>,
    /// How many bytes the body had.
    pub bytes: u64,
}

/// The verdict on one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The bytes are those that were promised.
    Verified,
    /// They are not. The body ended with a [`DigestError`], or its head became a 502.
    Mismatch,
    /// The body was shorter or longer than declared, and ended as for [`Verdict::Mismatch`].
    LengthMismatch,
    /// The body failed, panicked or was dropped before its end, so nothing is known.
    Aborted,
    /// The body was not checked.
    Unverifiable(Unverifiable),
}

impl Verdict {
    /// What [`Verdict::as_str`] can say.
    pub(crate) const LABELS: [&'static str; 5] = [
        "verified",
        "mismatch",
        "length_mismatch",
        "aborted",
        "unverifiable",
    ];

    /// A word for labels: `verified`, `mismatch`, `length_mismatch`, `aborted`, `unverifiable`.
    pub const fn as_str(self) -> &'static str {
        Self::LABELS[self.index()]
    }

    const fn index(self) -> usize {
        match self {
            Self::Verified => 0,
            Self::Mismatch => 1,
            Self::LengthMismatch => 2,
            Self::Aborted => 3,
            Self::Unverifiable(_) => 4,
        }
    }
}

/// How often each verdict was reached, in the order of [`Verdict::LABELS`].
#[derive(Debug, Default)]
pub(crate) struct VerdictCounts([AtomicU64; Verdict::LABELS.len()]);

impl VerdictCounts {
    pub(super) fn add(&self, verdict: Verdict) {
        self.0[verdict.index()].fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn read(&self) -> [u64; Verdict::LABELS.len()] {
        std::array::from_fn(|index| self.0[index].load(Ordering::Relaxed))
    }
}

/// Why a body could not be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unverifiable {
    /// The promise cannot be read.
    Malformed,
    /// Two promises contradict each other.
    Conflicting,
    /// To an HTTP/1.0 client the end of a body of unknown length is the end of the connection: a body that is cut looks
    /// whole, so finding out at its end would help nobody. It was longer than the buffer.
    Http10WithoutLength,
    /// A digest was announced for the trailers and did not come, or nobody read them: over HTTP/1.1 a body of known
    /// length has none.
    NoTrailer,
}

/// The error that a body ends with instead of looking whole: its bytes are not what was promised.
///
/// Its source is a [`StreamError`], so that every layer knows the kind.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DigestError(#[source] StreamError);

impl DigestError {
    pub(super) fn mismatch(expected: &DigestValue, actual: &DigestValue) -> Self {
        let message = format!(
            "the {} of the body is {actual}, promised was {expected}",
            expected.algorithm()
        );
        Self(StreamError::new(FaultKind::DigestMismatch, message))
    }

    pub(super) fn length(declared: u64, actual: u64) -> Self {
        let kind = if actual < declared {
            FaultKind::ShortBody
        } else {
            FaultKind::Other
        };
        Self(StreamError::new(
            kind,
            format!("the body has {actual} bytes, declared were {declared}"),
        ))
    }

    pub(super) fn bad_promise() -> Self {
        Self(StreamError::new(
            FaultKind::DigestMismatch,
            "the digest in the trailers cannot be read",
        ))
    }

    /// What the [`Exchange`](tower_stream_core::Exchange) is told.
    pub fn cause(&self) -> &Cause {
        self.0.cause()
    }
}
