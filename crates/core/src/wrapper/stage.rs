//! The trait for a layer's state and behaviour in one request.

use std::{
    fmt,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Response, response};
use http_body::SizeHint;

use super::{Piece, Polled, ResponseHead};
use crate::{Exchange, StreamEnd};

/// The state of a layer for one request, and its effect on the response. Every method has a default that changes
/// nothing.
///
/// The [module documentation](super) lists the order in which the methods run. A stage that only observes implements
/// [`Stage::on_piece`] and [`Stage::on_end`]. A stage that changes the body implements [`Stage::on_polled`], which
/// edits what the inner body returned, and [`Stage::on_poll`], which returns pieces of its own without polling the
/// inner body.
///
/// The stages of a wrapper are compiled into one function that calls each method in one place, so a small method that
/// runs for each frame is inlined. Move rare cases into a function that is `#[cold]`.
pub trait Stage: Send + 'static {
    /// Whether most responses have no such stage, because its layer is off by default. The frames of a response without
    /// any stage of a rare kind take a path of their own, on which these kinds cost nothing.
    const RARE: bool = false;

    /// Whether the stage, now that the head is there, does nothing with frames: a stage of a [rare](Self::RARE) kind that waits only
    /// for the end. Then none of the methods that run for each frame is called.
    #[inline]
    fn ignores_frames(&self) -> bool {
        false
    }

    /// Runs `run` in the context of the stage: with a span entered, a thread-local set, or panics caught. `stage` is
    /// `None` if the layer does not follow the request; `run` must be called in this case too.
    ///
    /// `None` means that `run` panicked and the stage caught the panic. [`Stage::on_caught`] or
    /// [`Stage::on_caught_body`] is called next. The default calls `run` and does not catch panics.
    #[inline(always)]
    fn around<T>(stage: Option<&mut Self>, at: At, run: impl FnOnce() -> T) -> Option<T>
    where
        Self: Sized,
    {
        let _ = (stage, at);
        Some(run())
    }

    /// Called if the call or the future panicked before the response head. A stage whose `around` caught the panic
    /// returns another response head, and [discards](Source::discard) the inner source.
    fn on_caught(
        &mut self,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Option<response::Parts> {
        let _ = (up, cx);
        None
    }

    /// Called before the inner future is polled, until it returns ready: the request waits until then. `Some` refuses
    /// the request: the inner future is dropped, and the stages further outside see this response as if it came from
    /// inside, as that of [`Begin::Refuse`](super::Begin::Refuse).
    ///
    /// The inner service was called already. A service that does its work in its future, as a router of axum or tonic
    /// does, has not begun yet.
    #[inline(always)]
    fn poll_admission(
        &mut self,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<Option<Box<Response<Bytes>>>> {
        let _ = cx;
        Poll::Ready(None)
    }

    /// Called after each poll of the future in which the head did not arrive. A stage that stops waiting records the
    /// cause, [discards](Source::discard) the inner source and returns another response head.
    #[inline]
    fn on_pending(
        &mut self,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Option<response::Parts> {
        let _ = (up, cx);
        None
    }

    /// Called when the head arrives, until it returns ready. The stage may poll `up` to see how the body begins before
    /// the head is sent; it then returns these pieces from [`Stage::on_poll`].
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

    /// Called before the inner source is polled. If it returns `Some`, this is used instead, and `up` is not polled.
    #[inline]
    fn on_poll(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        let _ = (up, cx);
        None
    }

    /// Called after the inner source was polled (inside of [`Stage::around`]) with the result. The stage may edit
    /// `polled`, which is then returned. A stage that keeps the piece and has nothing to return polls `up` again. The
    /// default calls [`Stage::on_piece`].
    ///
    /// `polled` is a reference so that a piece stays in one place on its way through all stages.
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

    /// Called if the body panicked and [`Stage::around`] caught the panic. Returns what is sent instead of the rest of
    /// the body. It should [discard](Source::discard) the inner source. The default ends the body.
    fn on_caught_body(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Polled {
        let _ = (up, cx);
        Poll::Ready(None)
    }

    /// Called for each piece of the body.
    #[inline]
    fn on_piece(&mut self, piece: &Piece) {
        let _ = piece;
    }

    /// Called, in place of [`Stage::on_piece`], for a heartbeat that a layer further inside wrote because the stream
    /// was idle. A heartbeat is not a chunk, and does not show that the handler makes progress. The default calls
    /// `on_piece`.
    #[inline]
    fn on_heartbeat(&mut self, piece: &Piece) {
        self.on_piece(piece);
    }

    /// Called with the gRPC status of the response (also 0): from its head (Trailers-Only), its trailers, or a gRPC-Web
    /// trailer frame in one piece. This is the status that leaves the outermost stage. Runs before
    /// [`Stage::on_latched`].
    fn on_grpc_status(&mut self, code: u8) {
        let _ = code;
    }

    /// Called when the response ends, to read a clock. [`Stage::on_end`] reports later how it ended. Runs at most once,
    /// and not for a body that is dropped before its end.
    #[inline]
    fn on_latched(&mut self) {}

    /// Called exactly once with how the response ended, before the inner body is dropped: when the whole body is
    /// dropped, when it is polled again after its end, or when a stage further outside discards it. A panic here is
    /// caught and ignored.
    fn on_end(&mut self, end: &StreamEnd) {
        let _ = end;
    }

    /// Returns whether the stage has something to return even after the inner body has ended.
    #[inline]
    fn has_more(&self) -> bool {
        false
    }

    /// Size of the remaining body.
    #[inline]
    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        up.size_hint()
    }
}

/// For a stage that is large and often absent. All stages of a request share one allocation, which is cheaper up to
/// 1,032 bytes.
impl<T: Stage> Stage for Box<T> {
    const RARE: bool = T::RARE;

    #[inline]
    fn ignores_frames(&self) -> bool {
        (**self).ignores_frames()
    }

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
    fn poll_admission(
        &mut self,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<Option<Box<Response<Bytes>>>> {
        (**self).poll_admission(cx)
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
    /// The stage follows the body.
    Stay,
    /// The stage is dropped now. None of its methods is called any more, not even `on_end`.
    Leave,
}

/// The arguments of each poll of a stage.
pub struct StageContext<'a, 'b> {
    /// The context of the task, for polling futures.
    pub task: &'a mut Context<'b>,
    /// The exchange of the request. A stage that ends a response records the cause **before** it discards the inner
    /// source.
    pub exchange: &'a mut Exchange,
    pub(super) heartbeat: bool,
}

impl<'a, 'b> StageContext<'a, 'b> {
    /// The context of one poll.
    #[inline]
    pub fn new(task: &'a mut Context<'b>, exchange: &'a mut Exchange) -> Self {
        Self {
            task,
            exchange,
            heartbeat: false,
        }
    }

    /// Returns whether the piece from the last poll is a heartbeat, see [`Stage::on_heartbeat`].
    #[inline]
    #[must_use]
    pub fn is_heartbeat(&self) -> bool {
        self.heartbeat
    }

    /// Sets whether the piece of this poll is a heartbeat, for the stages further outside. Called by the layer that writes
    /// heartbeats.
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

/// Hints about the body inside of a stage.
pub trait Hints {
    /// Size of the remaining body.
    fn size_hint(&self) -> SizeHint;

    /// Returns whether the body has ended, so that another poll would return nothing.
    fn is_end_stream(&self) -> bool;
}

/// The size of a body that a layer may add bytes to: `bytes` or more. A hint that is exact would become a `Content-Length`.
#[must_use]
pub fn at_least(bytes: u64) -> SizeHint {
    let mut hint = SizeHint::new();
    hint.set_lower(bytes);
    hint
}

/// The size of a body to which exactly `bytes` are added.
#[must_use]
pub fn longer_by(bytes: u64, size: &SizeHint) -> SizeHint {
    let mut hint = at_least(size.lower().saturating_add(bytes));
    if let Some(upper) = size.upper() {
        hint.set_upper(upper.saturating_add(bytes));
    }
    hint
}

/// The inside of a stage: the stages further inside, and the body of the service.
///
/// The body of the service fails if it ends before its declared length. Every `Err` that it returns is recorded in the
/// [`Exchange`].
pub trait Source: Hints {
    /// Polls for the next piece. Returns `None` after the end.
    fn poll(&mut self, cx: &mut StageContext<'_, '_>) -> Polled;

    /// Drops the inside. The stages there are told how the response ended by the cause in the [`Exchange`], so record
    /// it first.
    fn discard(&mut self, cx: &mut StageContext<'_, '_>);
}
