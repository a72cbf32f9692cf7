//! The outcome of a check.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{Method, Uri};
use tower_stream_core::{Cause, FaultKind};

use crate::DigestValue;

/// The outcome of checking one body. Reported once for each body with a declared digest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verification {
    /// The method of the request.
    pub method: Method,
    /// The URI of the request.
    pub uri: Uri,
    /// The result of the check.
    pub verdict: Verdict,
    /// The declared digest, if one could be parsed. If there are several, the one that does not match, or otherwise the
    /// first.
    pub expected: Option<DigestValue>,
    /// The digest of the body by the algorithm of `expected`, if the whole body was hashed.
    pub actual: Option<DigestValue>,
    /// The declared length, if any.
    pub declared: Option<u64>,
    /// Number of bytes in the body.
    pub bytes: u64,
}

/// The result of checking one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// All declared digests match.
    Verified,
    /// A declared digest does not match. The body ended with a [`DigestError`], or its head became a 502.
    Mismatch,
    /// The body was shorter or longer than declared. It ended as for [`Verdict::Mismatch`].
    LengthMismatch,
    /// The body failed, panicked or was dropped before its end, so it could not be checked.
    Aborted,
    /// The body was not checked.
    Unverifiable(Unverifiable),
}

impl Verdict {
    /// All values of [`Verdict::as_str`].
    pub(crate) const LABELS: [&'static str; 5] = [
        "verified",
        "mismatch",
        "length_mismatch",
        "aborted",
        "unverifiable",
    ];

    /// The verdict as a label value: `verified`, `mismatch`, `length_mismatch`, `aborted` or `unverifiable`.
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

/// Number of bodies with each verdict, in the order of [`Verdict::LABELS`].
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
    /// The declared digest is malformed.
    Malformed,
    /// Two declared digests contradict each other.
    Conflicting,
    /// The client uses HTTP/1.0, the body has no declared length, and it is longer than the buffer. Its end is then the
    /// end of the connection, so the client could not tell a body that is broken off from a complete one.
    Http10WithoutLength,
    /// The digest was to come in the trailers, but the body had none, or the server did not poll for them: over
    /// HTTP/1.1, a body with a `Content-Length` has no trailers.
    NoTrailer,
}

/// The error at the end of a body that does not match its declared digest or length.
///
/// Its source is a [`Cause`], so that other layers recognize its kind.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DigestError(#[source] Cause);

impl DigestError {
    pub(super) fn mismatch(expected: &DigestValue, actual: &DigestValue) -> Self {
        let message = format!(
            "the {} of the body is {actual}, promised was {expected}",
            expected.algorithm()
        );
        Self(Cause::new(FaultKind::DigestMismatch, message))
    }

    pub(super) fn length(declared: u64, actual: u64) -> Self {
        let kind = if actual < declared {
            FaultKind::ShortBody
        } else {
            FaultKind::Other
        };
        Self(Cause::new(
            kind,
            format!("the body has {actual} bytes, declared were {declared}"),
        ))
    }

    pub(super) fn bad_promise() -> Self {
        Self(Cause::new(
            FaultKind::DigestMismatch,
            "the digest in the trailers cannot be read",
        ))
    }

    /// The cause for the [`Exchange`](tower_stream_core::Exchange).
    pub fn cause(&self) -> &Cause {
        &self.0
    }
}
