//! The stages of one request, nested in each other.

use std::{
    fmt,
    task::{Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::SizeHint;

use super::{AfterHead, At, Hints, Polled, ResponseHead, Source, Stage, StageContext};
use crate::StreamEnd;

/// One or several stages, as the wrapper runs them. The methods have no defaults, because a forgotten method would
/// silently disable a layer.
#[doc(hidden)]
pub trait Chain: Send + 'static {
    /// Stages that do nothing.
    fn absent() -> Self;
    fn is_absent(&self) -> bool;
    fn around<T>(&mut self, at: At, run: impl FnOnce() -> T) -> Option<T>;
    fn poll_head(
        &mut self,
        up: &mut impl HeadSource,
        head: &mut Option<ResponseHead>,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<HeadPoll>;
    /// Whether no stage whose kind is [rare](Stage::RARE) looks at frames.
    fn is_plain(&self) -> bool;
    /// Polls for a frame. With `PLAIN`, stages of a rare kind are not looked for.
    fn poll<const PLAIN: bool>(
        &mut self,
        up: &mut impl Upstream,
        cx: &mut StageContext<'_, '_>,
        polled: &mut Polled,
    );
    fn on_grpc_status(&mut self, code: u8);
    fn on_latched(&mut self);
    fn on_end(&mut self, end: &StreamEnd);
    fn has_more(&self) -> bool;
    fn size_hint(&self, up: &impl Hints) -> SizeHint;
}

/// The result of a poll for the response head.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadPoll {
    /// The head is in its slot.
    Head,
    /// A panic was caught and has not been handled yet.
    Caught,
    /// The inner service failed.
    Failed,
}

/// A source as the chain of stages polls it for each frame.
///
/// Stages themselves use [`Source::poll`], which is not inlined: they poll only in rare cases, and inlining would
/// repeat all inner code at each call.
#[doc(hidden)]
pub trait Upstream: Source {
    fn poll_inline<const PLAIN: bool>(
        &mut self,
        cx: &mut StageContext<'_, '_>,
        polled: &mut Polled,
    );
}

/// A source whose head has not arrived yet.
#[doc(hidden)]
pub trait HeadSource: Upstream {
    fn poll_head(
        &mut self,
        head: &mut Option<ResponseHead>,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<HeadPoll>;

    /// Sets the content that is sent in place of the body, which was discarded.
    fn set_refusal(&mut self, content: Bytes);
}

/// The slot of one stage. Empty if the layer is off or its stage has left.
#[doc(hidden)]
pub struct Slot<T> {
    stage: Option<T>,
    /// Whether `on_head` is done.
    has_head: bool,
}

impl<T> Slot<T> {
    #[inline]
    pub(super) fn new(stage: T) -> Self {
        Self {
            stage: Some(stage),
            has_head: false,
        }
    }
}

impl<T: Stage> Chain for Slot<T> {
    #[inline]
    fn absent() -> Self {
        Self {
            stage: None,
            has_head: false,
        }
    }

    #[inline]
    fn is_absent(&self) -> bool {
        self.stage.is_none()
    }

    #[inline]
    fn around<R>(&mut self, at: At, run: impl FnOnce() -> R) -> Option<R> {
        T::around(self.stage.as_mut(), at, run)
    }

    #[inline]
    fn poll_head(
        &mut self,
        up: &mut impl HeadSource,
        head: &mut Option<ResponseHead>,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<HeadPoll> {
        let Some(stage) = &mut self.stage else {
            return up.poll_head(head, cx);
        };
        if self.has_head {
            return Poll::Ready(HeadPoll::Head);
        }
        if let Some(response) = ready!(stage.poll_admission(cx)) {
            *head = Some(refuse(*response, up, cx));
            self.has_head = true;
            return Poll::Ready(HeadPoll::Head);
        }
        let polled = T::around(Some(&mut *stage), At::Future, || up.poll_head(head, cx));
        let Poll::Ready(polled) = polled.unwrap_or(Poll::Ready(HeadPoll::Caught)) else {
            let Some(replaced) = stage.on_pending(up, cx) else {
                return Poll::Pending;
            };
            *head = Some(ResponseHead::new(replaced));
            self.has_head = true;
            return Poll::Ready(HeadPoll::Head);
        };
        match (polled, head) {
            (HeadPoll::Head, Some(head)) => {
                if ready!(stage.on_head(head, up, cx)) == AfterHead::Leave {
                    self.stage = None;
                }
            }
            (HeadPoll::Failed, _) => return Poll::Ready(HeadPoll::Failed),
            (HeadPoll::Caught | HeadPoll::Head, head) => {
                let Some(replaced) = stage.on_caught(up, cx) else {
                    return Poll::Ready(HeadPoll::Caught);
                };
                *head = Some(ResponseHead::new(replaced));
            }
        }
        self.has_head = true;
        Poll::Ready(HeadPoll::Head)
    }

    #[inline]
    fn is_plain(&self) -> bool {
        !T::RARE || self.stage.as_ref().is_none_or(T::ignores_frames)
    }

    #[inline(always)]
    fn poll<const PLAIN: bool>(
        &mut self,
        up: &mut impl Upstream,
        cx: &mut StageContext<'_, '_>,
        polled: &mut Polled,
    ) {
        if PLAIN && T::RARE {
            up.poll_inline::<PLAIN>(cx, polled);
            return;
        }
        if let Some(stage) = &mut self.stage
            && let Some(given) = stage.on_poll(up, cx)
        {
            *polled = given;
            return;
        }
        // Called in one place, whether there is a stage or not, because a function that is called twice is not inlined.
        let returned = T::around(self.stage.as_mut(), At::Body, || {
            up.poll_inline::<PLAIN>(cx, polled);
        });
        let Some(stage) = &mut self.stage else {
            return;
        };
        match returned {
            Some(()) => stage.on_polled(polled, up, cx),
            None => *polled = stage.on_caught_body(up, cx),
        }
    }

    fn on_grpc_status(&mut self, code: u8) {
        if let Some(stage) = &mut self.stage {
            stage.on_grpc_status(code);
        }
    }

    #[inline]
    fn on_latched(&mut self) {
        if let Some(stage) = &mut self.stage {
            stage.on_latched();
        }
    }

    #[inline]
    fn on_end(&mut self, end: &StreamEnd) {
        if let Some(stage) = &mut self.stage {
            stage.on_end(end);
        }
    }

    #[inline]
    fn has_more(&self) -> bool {
        self.stage.as_ref().is_some_and(T::has_more)
    }

    #[inline]
    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        match &self.stage {
            Some(stage) => stage.size_hint(up),
            None => up.size_hint(),
        }
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("on", &self.stage.is_some())
            .finish_non_exhaustive()
    }
}

/// A stage refuses the request after it has waited.
#[cold]
fn refuse(
    response: Response<Bytes>,
    up: &mut impl HeadSource,
    cx: &mut StageContext<'_, '_>,
) -> ResponseHead {
    up.discard(cx);
    let (head, content) = response.into_parts();
    up.set_refusal(content);
    ResponseHead::new(head)
}

/// Two chains of stages, one inside of the other.
#[doc(hidden)]
#[derive(Debug)]
pub struct Pair<A, B> {
    pub(super) outer: A,
    pub(super) inner: B,
}

impl<A: Chain, B: Chain> Chain for Pair<A, B> {
    #[inline]
    fn absent() -> Self {
        Self {
            outer: A::absent(),
            inner: B::absent(),
        }
    }

    #[inline]
    fn is_absent(&self) -> bool {
        self.outer.is_absent() && self.inner.is_absent()
    }

    #[inline]
    fn around<T>(&mut self, at: At, run: impl FnOnce() -> T) -> Option<T> {
        let Self { outer, inner } = self;
        outer.around(at, || inner.around(at, run)).flatten()
    }

    #[inline]
    fn poll_head(
        &mut self,
        up: &mut impl HeadSource,
        head: &mut Option<ResponseHead>,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<HeadPoll> {
        let Self { outer, inner } = self;
        outer.poll_head(&mut Inside { chain: inner, up }, head, cx)
    }

    #[inline]
    fn is_plain(&self) -> bool {
        self.outer.is_plain() && self.inner.is_plain()
    }

    #[inline(always)]
    fn poll<const PLAIN: bool>(
        &mut self,
        up: &mut impl Upstream,
        cx: &mut StageContext<'_, '_>,
        polled: &mut Polled,
    ) {
        let Self { outer, inner } = self;
        outer.poll::<PLAIN>(&mut Inside { chain: inner, up }, cx, polled);
    }

    fn on_grpc_status(&mut self, code: u8) {
        self.outer.on_grpc_status(code);
        self.inner.on_grpc_status(code);
    }

    #[inline]
    fn on_latched(&mut self) {
        self.outer.on_latched();
        self.inner.on_latched();
    }

    #[inline]
    fn on_end(&mut self, end: &StreamEnd) {
        self.outer.on_end(end);
        self.inner.on_end(end);
    }

    #[inline]
    fn has_more(&self) -> bool {
        self.outer.has_more() || self.inner.has_more()
    }

    #[inline]
    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        let chain = &self.inner;
        self.outer.size_hint(&InsideHints { chain, up })
    }
}

/// No stage.
impl Chain for () {
    #[inline]
    fn absent() -> Self {}

    #[inline]
    fn is_absent(&self) -> bool {
        true
    }

    #[inline]
    fn around<T>(&mut self, _: At, run: impl FnOnce() -> T) -> Option<T> {
        Some(run())
    }

    #[inline]
    fn poll_head(
        &mut self,
        up: &mut impl HeadSource,
        head: &mut Option<ResponseHead>,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<HeadPoll> {
        up.poll_head(head, cx)
    }

    #[inline]
    fn is_plain(&self) -> bool {
        true
    }

    #[inline(always)]
    fn poll<const PLAIN: bool>(
        &mut self,
        up: &mut impl Upstream,
        cx: &mut StageContext<'_, '_>,
        polled: &mut Polled,
    ) {
        up.poll_inline::<PLAIN>(cx, polled);
    }

    fn on_grpc_status(&mut self, _: u8) {}

    #[inline]
    fn on_latched(&mut self) {}

    #[inline]
    fn on_end(&mut self, _: &StreamEnd) {}

    #[inline]
    fn has_more(&self) -> bool {
        false
    }

    #[inline]
    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        up.size_hint()
    }
}

/// What a stage sees as its source: the stages inside of it, over their own source.
struct Inside<'a, C, U> {
    chain: &'a mut C,
    up: &'a mut U,
}

impl<C: Chain, U: Upstream> Hints for Inside<'_, C, U> {
    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.chain.size_hint(&*self.up)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        !self.chain.has_more() && self.up.is_end_stream()
    }
}

impl<C: Chain, U: Upstream> Upstream for Inside<'_, C, U> {
    #[inline(always)]
    fn poll_inline<const PLAIN: bool>(
        &mut self,
        cx: &mut StageContext<'_, '_>,
        polled: &mut Polled,
    ) {
        self.chain.poll::<PLAIN>(self.up, cx, polled);
    }
}

impl<C: Chain, U: Upstream> Source for Inside<'_, C, U> {
    #[inline(never)]
    fn poll(&mut self, cx: &mut StageContext<'_, '_>) -> Polled {
        let mut polled = Poll::Pending;
        self.chain
            .poll::<false>(&mut Apart(self.up), cx, &mut polled);
        polled
    }

    #[cold]
    fn discard(&mut self, cx: &mut StageContext<'_, '_>) {
        let end = match cx.exchange.cause() {
            Some(cause) => StreamEnd::of_cause(cause),
            None => StreamEnd::Dropped,
        };
        self.chain.on_end(&end);
        let up = &mut *self.up;
        let _ = self.chain.around(At::Drop, || up.discard(cx));
        *self.chain = C::absent();
    }
}

/// A source that is polled through a function call, together with everything inside.
///
/// Code that polls apart from the path of the frames uses this source and shares nothing with that path. The path then
/// has one caller at each level, and is inlined.
struct Apart<'a, U>(&'a mut U);

impl<U: Source> Hints for Apart<'_, U> {
    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

impl<U: Source> Source for Apart<'_, U> {
    fn poll(&mut self, cx: &mut StageContext<'_, '_>) -> Polled {
        self.0.poll(cx)
    }

    fn discard(&mut self, cx: &mut StageContext<'_, '_>) {
        self.0.discard(cx);
    }
}

impl<U: Source> Upstream for Apart<'_, U> {
    fn poll_inline<const PLAIN: bool>(
        &mut self,
        cx: &mut StageContext<'_, '_>,
        polled: &mut Polled,
    ) {
        *polled = self.0.poll(cx);
    }
}

impl<C: Chain, U: HeadSource> HeadSource for Inside<'_, C, U> {
    #[inline]
    fn poll_head(
        &mut self,
        head: &mut Option<ResponseHead>,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<HeadPoll> {
        self.chain.poll_head(self.up, head, cx)
    }

    fn set_refusal(&mut self, content: Bytes) {
        self.up.set_refusal(content);
    }
}

/// What a stage sees as its source, as in [`Inside`], borrowed only to read the hints.
struct InsideHints<'a, C, U> {
    chain: &'a C,
    up: &'a U,
}

impl<C: Chain, U: Hints> Hints for InsideHints<'_, C, U> {
    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.chain.size_hint(self.up)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        !self.chain.has_more() && self.up.is_end_stream()
    }
}
