//! What a layer does in one request.

use std::{
    fmt,
    task::{Context, Poll},
};

use http::response;
use http_body::SizeHint;

use super::{Piece, Polled, ResponseHead};
use crate::{Exchange, StreamEnd};

/// What a layer keeps of one request, and what it does to the response. Every method has a default that changes nothing.
///
/// The [module documentation](super) has the order in which the methods run. A stage that only watches implements
/// [`Stage::on_piece`] and [`Stage::on_end`]. One that changes what is sent implements [`Stage::poll`], which then has to
/// call `around`, `on_poll` and `on_piece` as far as the stage needs them.
pub trait Stage: Send + 'static {
    /// Runs `run` in the stage's own context: with a span entered, a thread-local set, or a panic caught.
    ///
    /// `None` says that `run` panicked and that the stage caught it; the stage then answers [`Stage::on_caught`]. The
    /// default calls `run` and lets a panic pass.
    #[inline]
    fn around<T>(&mut self, at: At, run: impl FnOnce() -> T) -> Option<T> {
        let _ = at;
        Some(run())
    }

    /// The call or the future panicked before there was a head. A stage whose `around` caught that gives the head of the
    /// response in its place, and [discards](Source::discard) what is inside.
    fn on_caught(
        &mut self,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Option<response::Parts> {
        let _ = (up, cx);
        None
    }

    /// The future was polled and the head is not there yet. A stage that does not wait any longer records the cause,
    /// [discards](Source::discard) what is inside and gives the head of the response in its place.
    #[inline]
    fn on_pending(
        &mut self,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Option<response::Parts> {
        let _ = (up, cx);
        None
    }

    /// The head is there. Runs until it is ready, then not again. It may poll `up`, to learn how the body begins before
    /// the head leaves; the pieces that it took it gives out in [`Stage::poll`] later.
    #[inline]
    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        let _ = (head, up, cx);
        Poll::Ready(AfterHead::Stay)
    }

    /// The next piece. The default polls `up` inside of [`Stage::around`], between [`Stage::on_poll`] and
    /// [`Stage::on_piece`].
    #[inline]
    fn poll(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Polled {
        self.on_poll();
        let Some(polled) = self.around(At::Body, || up.poll(cx)) else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(Some(Ok(piece))) = &polled {
            self.on_piece(piece);
        }
        polled
    }

    /// The body is about to be polled.
    #[inline]
    fn on_poll(&mut self) {}

    /// The body gave this piece.
    #[inline]
    fn on_piece(&mut self, piece: &Piece) {
        let _ = piece;
    }

    /// The response said this gRPC status, 0 included: in its head (Trailers-Only), in its trailers, or in a gRPC-Web
    /// trailer frame that comes in one piece. It is what leaves the outermost stage. Runs before [`Stage::on_latched`].
    fn on_grpc_status(&mut self, code: u8) {
        let _ = code;
    }

    /// The response has ended *now*: the place to read a clock. How it ended is said later, by [`Stage::on_end`]. Runs at
    /// most once, and not for a body that is dropped unended.
    #[inline]
    fn on_latched(&mut self) {}

    /// How the response ended. Runs exactly once, before the body inside is dropped: when the whole body is dropped, or
    /// polled again after its end, or when a stage further out discards it. A panic here is swallowed.
    fn on_end(&mut self, end: &StreamEnd) {
        let _ = end;
    }

    /// Whether the stage has something to give out even when the body inside has ended.
    #[inline]
    fn has_more(&self) -> bool {
        false
    }

    /// How many bytes are still to come.
    #[inline]
    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        up.size_hint()
    }
}

/// For a stage that is large and often absent: all stages of a request stand in one allocation, which is cheaper while it has
/// no more than 1,032 bytes.
impl<T: Stage> Stage for Box<T> {
    #[inline]
    fn around<R>(&mut self, at: At, run: impl FnOnce() -> R) -> Option<R> {
        (**self).around(at, run)
    }

    fn on_caught(
        &mut self,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Option<response::Parts> {
        (**self).on_caught(up, cx)
    }

    #[inline]
    fn on_pending(
        &mut self,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Option<response::Parts> {
        (**self).on_pending(up, cx)
    }

    #[inline]
    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        (**self).on_head(head, up, cx)
    }

    #[inline]
    fn poll(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Polled {
        (**self).poll(up, cx)
    }

    #[inline]
    fn on_poll(&mut self) {
        (**self).on_poll();
    }

    #[inline]
    fn on_piece(&mut self, piece: &Piece) {
        (**self).on_piece(piece);
    }

    fn on_grpc_status(&mut self, code: u8) {
        (**self).on_grpc_status(code);
    }

    #[inline]
    fn on_latched(&mut self) {
        (**self).on_latched();
    }

    fn on_end(&mut self, end: &StreamEnd) {
        (**self).on_end(end);
    }

    #[inline]
    fn has_more(&self) -> bool {
        (**self).has_more()
    }

    #[inline]
    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        (**self).size_hint(up)
    }
}

/// When [`Stage::around`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Around `Service::call`, and around [`Hook::on_request`](super::Hook::on_request) of the stages inside.
    Call,
    /// Around a poll of the future, and around [`Stage::on_head`] of the stages inside.
    Future,
    /// Around a poll of the body.
    Body,
    /// Around the drop of the future or of the body inside.
    Drop,
}

/// Whether a stage follows the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterHead {
    /// It does.
    Stay,
    /// It is dropped now and hears nothing more, not even the end.
    Leave,
}

/// What a stage is given with each poll.
pub struct StageContext<'a, 'b> {
    /// That of the task, to poll futures with.
    pub task: &'a mut Context<'b>,
    /// The cell of the request. A stage that ends a response records why **before** it discards anything.
    pub exchange: &'a mut Exchange,
}

impl fmt::Debug for StageContext<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageContext")
            .field("exchange", &self.exchange)
            .finish_non_exhaustive()
    }
}

/// What the body inside of a stage says of itself.
pub trait Hints {
    /// How many bytes are still to come.
    fn size_hint(&self) -> SizeHint;

    /// Whether it has ended, so that another poll would give nothing.
    fn is_end_stream(&self) -> bool;
}

/// What is inside of a stage: the stages further in, and the body of the service.
///
/// The body of the service fails when it ends before its declared length, and the [`Exchange`] is recorded for every `Err`
/// that it gives.
pub trait Source: Hints {
    /// The next piece; `None` for ever after the end.
    fn poll(&mut self, cx: &mut StageContext<'_, '_>) -> Polled;

    /// Drops what is inside. The stages there are told the end: the cause in the [`Exchange`], which was recorded before.
    fn discard(&mut self, cx: &mut StageContext<'_, '_>);
}
