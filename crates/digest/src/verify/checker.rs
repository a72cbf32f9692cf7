//! Hashes one body and compares it with its declared digests.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use tower_stream_core::{BoxError, Cause, FaultKind};

use super::{DigestError, Unverifiable, Verdict, Verification, layer::Config};
use crate::{
    DigestHandle, DigestValue,
    algorithm::ErasedAlgorithm,
    fields::{self, BadPromise, Promised},
    hasher::Run,
};

/// The parts of a request that are kept for [`Verification`].
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
}

impl Request {
    pub(crate) fn of<B>(request: &http::Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
        }
    }
}

/// Hashes a body and compares it with its declared digests.
pub(crate) struct Checker {
    checks: Vec<Check>,
    /// Reported in [`Verification`]: the digest that did not match, or otherwise the first one.
    expected: Option<DigestValue>,
    actual: Option<DigestValue>,
    declared: Option<u64>,
    /// Whether the message contains the whole representation.
    whole: bool,
    bytes: u64,
    verdict: Option<Verdict>,
    request: Request,
    handle: DigestHandle<Verification>,
    config: Arc<Config>,
}

/// The check with one algorithm.
struct Check {
    algorithm: ErasedAlgorithm,
    /// The digest that the head declared.
    expected: Option<DigestValue>,
    hash: Hash,
}

enum Hash {
    Running(Box<dyn Run>),
    /// `None` while the hash is being finished.
    Done(Option<DigestValue>),
}

impl Check {
    fn finish(&mut self) -> DigestValue {
        self.hash = match std::mem::replace(&mut self.hash, Hash::Done(None)) {
            Hash::Running(run) => Hash::Done(run.finish().0),
            done => done,
        };
        match self.hash {
            Hash::Done(Some(digest)) => digest,
            _ => unreachable!("it was asked for the digest of the whole"),
        }
    }
}

impl Checker {
    /// Creates a checker for these declared digests, see [`Config::promised`]. If none of them can be parsed, the body
    /// is not checked.
    pub(crate) fn new(
        promised: &[Promised],
        whole: bool,
        declared: Option<u64>,
        request: Request,
        config: &Arc<Config>,
    ) -> Self {
        let check = |promised: &Promised| Check {
            algorithm: promised.algorithm,
            expected: promised.digest,
            hash: Hash::Running(promised.algorithm.hash(None)),
        };
        let readable = |promised: &&Promised| promised.digest.is_some() || promised.bad.is_none();
        let checks: Vec<_> = promised.iter().filter(readable).map(check).collect();
        let mut checker = Self {
            expected: checks.iter().find_map(|check| check.expected),
            checks,
            actual: None,
            declared,
            whole,
            bytes: 0,
            verdict: None,
            request,
            handle: DigestHandle::new(),
            config: Arc::clone(config),
        };
        if checker.checks.is_empty()
            && let Some(bad) = promised.iter().find_map(|promised| promised.bad)
        {
            checker.give_up(bad.into());
        }
        checker
    }

    /// The handle that receives the outcome.
    pub(crate) fn handle(&self) -> DigestHandle<Verification> {
        self.handle.clone()
    }

    /// Skips the check.
    pub(crate) fn give_up(&mut self, why: Unverifiable) {
        self.checks.clear();
        self.verdict = Some(Verdict::Unverifiable(why));
    }

    pub(crate) fn is_judged(&self) -> bool {
        self.verdict.is_some()
    }

    /// Returns whether the check does not need trailers.
    pub(super) fn expects_no_trailer(&self) -> bool {
        self.expected.is_some() || self.is_judged()
    }

    /// Records that the body failed.
    pub(super) fn failed(&mut self, error: &BoxError) {
        let verdict = match self.is_short(error, self.bytes) {
            true => Verdict::LengthMismatch,
            false => Verdict::Aborted,
        };
        self.verdict.get_or_insert(verdict);
    }

    /// Returns whether this error says that the body ended after `bytes`, before its declared length.
    pub(super) fn is_short(&self, error: &BoxError, bytes: u64) -> bool {
        self.declared.is_some_and(|declared| bytes < declared)
            && Cause::of(&**error).kind() == FaultKind::ShortBody
    }

    pub(super) fn has_all_declared(&self) -> bool {
        self.declared == Some(self.bytes)
    }

    pub(super) fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// Checks a body that was polled ahead to its end, before its frames are passed on.
    pub(crate) fn judge_ahead<'a>(
        &mut self,
        data: impl Iterator<Item = &'a Bytes>,
        trailers: Option<&HeaderMap>,
    ) -> Result<(), DigestError> {
        for data in data {
            self.data(data);
        }
        let judged = self.judge(trailers);
        // The frames are counted again when they are passed on.
        self.bytes = if judged.is_ok() { 0 } else { self.bytes };
        judged
    }

    /// Returns whether the most recent data frame must be checked before it is passed on: it is the last one that a
    /// server polls for, or it exceeds the declared length.
    pub(super) fn is_due(&self, ended: bool) -> bool {
        let Some(declared) = self.declared else {
            return ended && !self.is_judged();
        };
        self.bytes > declared
            || (!self.is_judged() && (ended || (self.bytes == declared && self.expected.is_some())))
    }

    /// Checks the body at its end. `trailers` are those of the body.
    pub(super) fn judge(&mut self, trailers: Option<&HeaderMap>) -> Result<(), DigestError> {
        if let Some(Verdict::Unverifiable(_)) = self.verdict {
            return Ok(());
        }
        if let Some(declared) = self.declared.filter(|declared| *declared != self.bytes) {
            self.verdict = Some(Verdict::LengthMismatch);
            return Err(DigestError::length(declared, self.bytes));
        }
        let repr = self.whole && self.config.repr;
        let late =
            trailers.map(|trailers| fields::promised(trailers, &self.config.algorithms, repr));
        let late = late.unwrap_or_default();
        for check in &mut self.checks {
            let actual = check.finish();
            self.actual.get_or_insert(actual);
            let by_key = |late: &&Promised| late.algorithm.key == check.algorithm.key;
            let late = late.iter().find(by_key).and_then(|late| late.digest);
            for expected in [check.expected, late].into_iter().flatten() {
                if self.expected.is_none() || actual != expected {
                    (self.expected, self.actual) = (Some(expected), Some(actual));
                }
                if actual != expected {
                    self.verdict = Some(Verdict::Mismatch);
                    // The query may contain credentials, so only the path is logged.
                    let path = self.request.uri.path();
                    // At `debug` only: the error, with both digests, is logged by the layer that logs failures.
                    tracing::debug!(target: "tower_stream_digest", path, %expected, %actual, "a body is not what was promised");
                    return Err(DigestError::mismatch(&expected, &actual));
                }
                self.verdict = Some(Verdict::Verified);
            }
        }
        let refused = self.config.refused(&late, "trailers", &self.request.uri);
        if let Some(bad) = late.iter().find_map(|late| late.bad)
            && (refused.is_some() || self.verdict.is_none())
        {
            self.verdict = Some(Verdict::Unverifiable(bad.into()));
        }
        if refused.is_some() {
            return Err(DigestError::bad_promise());
        }
        if self.verdict.is_none() {
            self.verdict = Some(Verdict::Unverifiable(Unverifiable::NoTrailer));
        }
        Ok(())
    }

    pub(super) fn data(&mut self, data: &Bytes) {
        self.bytes += data.len() as u64;
        for check in &mut self.checks {
            if let Hash::Running(run) = &mut check.hash {
                run.update(data);
            }
        }
    }

    /// Reports the outcome. If the body was not checked although it has its declared length, the trailers with the
    /// digest are missing.
    pub(crate) fn report(&mut self) {
        let owes_trailers = self.expected.is_none() && self.has_all_declared();
        let unjudged = match owes_trailers {
            true => Verdict::Unverifiable(Unverifiable::NoTrailer),
            false => Verdict::Aborted,
        };
        let verdict = self.verdict.unwrap_or(unjudged);
        self.config.counts.add(verdict);
        let request = &mut self.request;
        let verification = || Verification {
            method: std::mem::take(&mut request.method),
            uri: std::mem::take(&mut request.uri),
            verdict,
            expected: self.expected,
            actual: self.actual,
            declared: self.declared,
            bytes: self.bytes,
        };
        self.handle
            .tell(self.config.on_outcome.as_ref(), verification);
    }
}

impl BadPromise {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Conflicting => "contradicting another one",
        }
    }
}

impl From<BadPromise> for Unverifiable {
    fn from(bad: BadPromise) -> Self {
        match bad {
            BadPromise::Malformed => Self::Malformed,
            BadPromise::Conflicting => Self::Conflicting,
        }
    }
}
