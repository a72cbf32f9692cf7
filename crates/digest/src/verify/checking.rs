//! A request or response body that is checked while it passes.

use std::task::Poll;

use http_body::SizeHint;
use tower_stream_core::{
    BoxError,
    wrapper::{Hints, Piece, Polled, Source, StageContext},
};

use super::{Checker, DigestError};
use crate::replay::{Ahead, Replay};

/// A body that is checked while it passes.
///
/// The frame that completes the body is checked in the same poll in which it arrives. If the digest does not match,
/// that frame is replaced by a [`DigestError`]. All other frames pass at once.
pub(crate) struct Checking {
    checker: Checker,
    replay: Replay,
    failed: bool,
}

impl Checking {
    pub(crate) fn new(checker: Checker) -> Self {
        Self {
            checker,
            replay: Replay::default(),
            failed: false,
        }
    }

    pub(super) fn checker_mut(&mut self) -> &mut Checker {
        &mut self.checker
    }

    pub(crate) fn is_judged(&self) -> bool {
        self.checker.is_judged()
    }

    pub(super) fn look_ahead(
        &mut self,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
        bound: u64,
    ) -> Ahead {
        // With a digest in the trailers, the body continues after its declared length.
        let declared = self.checker.declared();
        let declared = declared.filter(|_| self.checker.expects_no_trailer());
        self.replay.look_ahead(up, cx, bound, declared)
    }

    /// Checks a body that was polled ahead to its end.
    pub(super) fn judge_ahead(&mut self) -> Result<(), DigestError> {
        let replay = &self.replay;
        self.checker
            .judge_ahead(replay.data_ahead(), replay.trailers_ahead())
    }

    /// Returns whether the error that was polled ahead says that the body is shorter than declared.
    pub(super) fn is_short_ahead(&self) -> bool {
        let held = self.replay.data_ahead().map(|data| data.len() as u64).sum();
        let error = self.replay.error_ahead();
        error.is_some_and(|error| self.checker.is_short(error, held))
    }

    pub(crate) fn poll(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Polled {
        match self.on_poll(cx) {
            Some(polled) => polled,
            None => {
                let mut polled = up.poll(cx);
                self.on_polled(&mut polled, cx);
                polled
            }
        }
    }

    /// Returns what can be returned without polling the body.
    #[inline]
    pub(crate) fn on_poll(&mut self, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        if self.failed {
            return Some(Poll::Ready(None));
        }
        let mut polled = self.replay.on_poll()?;
        self.check(&mut polled, cx);
        Some(polled)
    }

    /// Checks what the body returned.
    #[inline]
    pub(crate) fn on_polled(&mut self, polled: &mut Polled, cx: &mut StageContext<'_, '_>) {
        self.replay.on_polled(polled);
        self.check(polled, cx);
    }

    #[inline]
    fn check(&mut self, polled: &mut Polled, cx: &mut StageContext<'_, '_>) {
        match polled {
            Poll::Ready(Some(Ok(Piece::Data { data, last }))) => {
                self.checker.data(data);
                if self.checker.is_due(*last) {
                    self.judge(polled, cx);
                }
            }
            Poll::Ready(_) => self.judge(polled, cx),
            Poll::Pending => {}
        }
    }

    /// Handles the end, or the data that completes the body.
    #[cold]
    fn judge(&mut self, polled: &mut Polled, cx: &mut StageContext<'_, '_>) {
        let Poll::Ready(given) = polled else {
            return;
        };
        let judged = match given {
            Some(Ok(Piece::Other(frame))) => match frame.trailers_ref() {
                Some(trailers) => self.checker.judge(Some(trailers)),
                None => Ok(()),
            },
            Some(Ok(Piece::Data { .. })) | None => self.checker.judge(None),
            Some(Err(error)) => {
                self.failed = true;
                self.checker.failed(error);
                Ok(())
            }
        };
        if let Err(error) = judged {
            *given = Some(Err(self.fail(error, cx)));
        }
    }

    fn fail(&mut self, error: DigestError, cx: &mut StageContext<'_, '_>) -> BoxError {
        self.failed = true;
        cx.exchange.record(error.cause().clone());
        error.into()
    }

    /// Reports the outcome.
    pub(crate) fn report(&mut self) {
        self.checker.report();
    }

    /// Returns whether another poll may return something. A body that has ended but is not checked yet may still fail.
    /// The exception is a body that reached its declared length: then only trailers are left, for which an h1 server
    /// does not poll.
    #[inline]
    pub(crate) fn has_more(&self) -> bool {
        let may_fail = !self.checker.is_judged() && !self.checker.has_all_declared();
        !self.failed && (self.replay.is_holding() || may_fail)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn size_hint(&self, up: &impl Hints) -> SizeHint {
        self.replay.size_hint(up)
    }
}
