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
/// [`Stage::on_piece`] and [`Stage::on_end`]. One that changes what is sent implements [`Stage::on_poll`], for what it gives
/// out without asking the body, and [`Stage::on_polled`], for what becomes of a piece that the body gave.
///
/// The stages of a wrapper are compiled into one function that calls each hook in one place. So a hook that runs for
/// each frame costs what it does and no more, as long as it is small: move what is rare into a function that is `#[cold]`.
pub trait Stage: Send + 'static {
    /// Runs `run` in the stage's own context: with a span entered, a thread-local set, or a panic caught. `stage` is `None`
    /// when the layer does not follow the request; `run` is called all the same.
    ///
    /// `None` says that `run` panicked and that the stage caught it; the stage then answers [`Stage::on_caught`] or
    /// [`Stage::on_caught_body`]. The default calls `run` and lets a panic pass.
    #[inline(always)]
    fn around<T>(stage: Option<&mut Self>, at: At, run: impl FnOnce() -> T) -> Option<T>
    where
        Self: Sized,
    {
        let _ = (stage, at);
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
    /// the head leaves; the pieces that it took it gives out in [`Stage::on_poll`] later.
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

    /// The body is about to be polled. `Some` is given out in place of what `up` would give, and `up` is not polled.
    #[inline]
    fn on_poll(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        let _ = (up, cx);
        None
    }

    /// The body was polled, inside of [`Stage::around`], and this came of it. What the stage leaves in `polled` is given
    /// out. A stage that keeps what is there, and has nothing to give out, polls `up` again. The default calls
    /// [`Stage::on_piece`].
    ///
    /// By reference, for a piece that every stage passes on then stays in one place.
    #[inline(always)]
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        let _ = up;
        if let Poll::Ready(Some(Ok(piece))) = polled {
            match cx.heartbeat {
                false => self.on_piece(piece),
                true => self.on_heartbeat(piece),
            }
        }
    }

    /// The body panicked and [`Stage::around`] caught that: what the stage gives out in place of the rest. It should
    /// [discard](Source::discard) what is inside. The default ends the body.
    fn on_caught_body(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Polled {
        let _ = (up, cx);
        Poll::Ready(None)
    }

    /// The body gave this piece.
    #[inline]
    fn on_piece(&mut self, piece: &Piece) {
        let _ = piece;
    }

    /// The body gave this heartbeat, which a layer further in has written because the stream was idle. It is bytes on the wire
    /// and nothing else: no chunk, and no sign of life of the handler. Runs in place of [`Stage::on_piece`], which is what the
    /// default calls.
    #[inline]
    fn on_heartbeat(&mut self, piece: &Piece) {
        self.on_piece(piece);
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
    #[inline(always)]
    fn around<R>(stage: Option<&mut Self>, at: At, run: impl FnOnce() -> R) -> Option<R> {
        T::around(stage.map(|stage| &mut **stage), at, run)
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
    fn on_poll(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        (**self).on_poll(up, cx)
    }

    #[inline(always)]
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        (**self).on_polled(polled, up, cx);
    }

    fn on_caught_body(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Polled {
        (**self).on_caught_body(up, cx)
    }

    #[inline]
    fn on_piece(&mut self, piece: &Piece) {
        (**self).on_piece(piece);
    }

    #[inline]
    fn on_heartbeat(&mut self, piece: &Piece) {
        (**self).on_heartbeat(piece);
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
    pub(super) heartbeat: bool,
}

impl<'a, 'b> StageContext<'a, 'b> {
    /// That of one poll.
    #[inline]
    pub fn new(task: &'a mut Context<'b>, exchange: &'a mut Exchange) -> Self {
        Self {
            task,
            exchange,
            heartbeat: false,
        }
    }

    /// Whether the piece that the last poll gave is a heartbeat: see [`Stage::on_heartbeat`].
    #[inline]
    #[must_use]
    pub fn is_heartbeat(&self) -> bool {
        self.heartbeat
    }

    /// Says what the piece is that this poll gives. For the layer that writes heartbeats; those further out then know.
    #[inline]
    pub fn set_heartbeat(&mut self, heartbeat: bool) {
        self.heartbeat = heartbeat;
    }
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
