//! What [`FarewellLayer`] does with one request.

use std::{sync::Arc, task::Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Version, response};
use http_body::{Frame, SizeHint};
use tower_stream_core::{
    Claim, Exchange, RecordHold, Records, StreamError, StreamKind, grpc,
    wrapper::{
        AfterHead, Begin, Hints, Hook, Piece, Polled, ResponseHead, Source, Stage, StageContext,
        at_least,
    },
};

use super::{
    FarewellLayer, Policy,
    end_timer::{Due, EndTimer},
    message, unanswered,
};
use crate::refusal::{self, UnreadUpload};

impl Hook for FarewellLayer {
    type Stage = FarewellStage;

    #[inline]
    fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    #[inline]
    fn on_request<B: 'static>(
        &self,
        request: &mut Request<B>,
        _: &Exchange,
    ) -> Begin<FarewellStage> {
        let Some(shared) = &self.shared else {
            return Begin::Pass;
        };
        let grpc_type = grpc::content_type(request.headers());
        Begin::Follow(FarewellStage {
            timer: EndTimer::new(Arc::clone(shared)),
            policy: self.policy,
            method: request.method().clone(),
            version: request.version(),
            has_upload: refusal::announces_upload(request),
            grpc_type: grpc_type.cloned().map(Box::new),
            kind: StreamKind::Other,
            records: Records::opaque(),
            rest: None,
            left: None,
            begun: false,
            over: false,
        })
    }
}

/// What [`FarewellLayer`] keeps of one request.
pub struct FarewellStage {
    timer: EndTimer,
    policy: Policy,
    method: Method,
    version: Version,
    /// The client may still be sending when the drain answers.
    has_upload: bool,
    grpc_type: Option<Box<HeaderValue>>,
    kind: StreamKind,
    records: Records,
    /// What is given out last: trailers behind what was held, or the content of the drain's own response.
    rest: Option<Box<Piece>>,
    /// How much of a declared length is still to come.
    left: Option<u64>,
    /// The body inside was polled: what was ready with the head is not lost.
    begun: bool,
    /// The last piece of the body inside has been given out, and it is not polled again.
    over: bool,
}

impl Stage for FarewellStage {
    /// The handler has no head yet. At the deadline it is too late for one.
    fn on_pending(
        &mut self,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Option<response::Parts> {
        self.timer.wait(cx.task);
        (self.timer.due() == Due::Anywhere).then(|| self.answer(up, cx))
    }

    #[inline]
    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        let size = up.size_hint();
        let delivery = head.delivery(&self.method, &size);
        self.left = delivery.declared_length();
        let nothing_to_end = delivery.is_bodiless() || self.left == Some(0) || up.is_end_stream();
        if nothing_to_end || !cx.exchange.claim(Claim::Farewell) {
            return Poll::Ready(AfterHead::Leave);
        }
        // Not one byte may be added to a declared length, nor to a part of something.
        if self.left.is_none() && head.allows_insertion() {
            self.kind = head.stream_kind();
        }
        let policy = head.extensions.get().copied().unwrap_or(self.policy);
        self.timer
            .set_policy((self.kind != StreamKind::Other).then_some(policy));
        self.records = Records::of(self.kind, RecordHold::DEFAULT_CAP);
        Poll::Ready(AfterHead::Stay)
    }

    #[inline(always)]
    fn on_poll(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        if self.over {
            return Some(Poll::Ready(self.rest.take().map(|piece| Ok(*piece))));
        }
        if self.ends_now(false, up) {
            return Some(self.end(up, cx));
        }
        self.begun = true;
        None
    }

    #[inline(always)]
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        // what nearly every poll gives passes as it is
        match polled {
            Poll::Ready(Some(Ok(Piece::Data { data, last: false })))
                if self.left.is_none() && self.records.passes(data) => {}
            polled => {
                let given = std::mem::replace(polled, Poll::Pending);
                *polled = self.hold(given, up, cx);
            }
        }
    }

    #[inline]
    fn has_more(&self) -> bool {
        self.rest.is_some() || self.records.held() > 0
    }

    #[inline]
    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        if let Some(rest) = &self.rest {
            return SizeHint::with_exact(rest.data().map_or(0, |data| data.len() as u64));
        }
        let hint = up.size_hint();
        if self.over || self.kind == StreamKind::Other {
            return hint;
        }
        // a farewell may come on top, or instead of the rest
        at_least(hint.lower() + self.records.held() as u64)
    }
}

impl FarewellStage {
    /// What the body inside gave, when it does not pass as it is: polls on until something can be given out.
    #[inline(never)]
    fn hold(
        &mut self,
        mut polled: Polled,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Polled {
        loop {
            match polled {
                Poll::Ready(Some(Ok(Piece::Data { data, last }))) => {
                    if let Some(left) = &mut self.left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    // a heartbeat stands between two records, so nothing is held
                    if cx.is_heartbeat() || self.records.passes(&data) {
                        if last {
                            self.ended();
                        }
                        return Poll::Ready(Some(Ok(Piece::Data { data, last })));
                    }
                    // the end comes with the next poll
                    if let Some(ready) = self.records.push(data) {
                        return Poll::Ready(Some(Ok(Piece::open(ready))));
                    }
                }
                Poll::Ready(Some(Ok(Piece::Other(frame)))) => {
                    return Poll::Ready(Some(Ok(self.after_hold(frame))));
                }
                Poll::Ready(None) => {
                    self.ended();
                    let rest = self.records.finish();
                    return Poll::Ready(rest.map(|data| Ok(Piece::Data { data, last: true })));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.records.discard();
                    self.ended();
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending => {
                    self.timer.wait(cx.task);
                    // it may have become due in between
                    return match self.ends_now(true, up) {
                        true => self.end(up, cx),
                        false => Poll::Pending,
                    };
                }
            }
            if self.ends_now(false, up) {
                return self.end(up, cx);
            }
            polled = up.poll(cx);
        }
    }

    /// Whether the stream has to end at the place where it is. `waits`: the body inside has nothing ready. A stream that
    /// has just ended by itself is complete, whoever polls it again.
    #[inline(always)]
    fn ends_now(&self, waits: bool, up: &impl Source) -> bool {
        let due = self.timer.due();
        due != Due::NotYet && self.ends(due, waits) && !up.is_end_stream()
    }

    #[cold]
    fn ends(&self, due: Due, waits: bool) -> bool {
        match due {
            Due::NotYet => false,
            Due::Anywhere => self.begun || waits,
            Due::AtBoundary => {
                self.records.is_clean()
                    && !self.records.are_opaque()
                    // the status of a call may be ready behind its last message
                    && (waits || (self.begun && self.records.are_held()))
            }
        }
    }

    /// Ends the stream. The cause is recorded before anything is dropped.
    #[cold]
    fn end(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Polled {
        self.ended();
        if self.left == Some(0) {
            // the client has all it was promised
            return Poll::Ready(None);
        }
        if cx.exchange.is_terminal() {
            // it has given the last record of its dialect, and is complete
            self.records.discard();
            up.discard(cx);
            return Poll::Ready(None);
        }
        let clean = self.records.is_clean();
        let shared = self.timer.shared();
        let retry = shared.settings.retry_after();
        let cause = shared.farewell(cx.exchange, retry);
        self.records.discard();
        up.discard(cx);
        let farewell = message::farewell(self.kind, self.version, cx.exchange, retry);
        let farewell = farewell.filter(|_| clean);
        let farewell = farewell.ok_or_else(|| StreamError::from(cause).into());
        Poll::Ready(Some(farewell.map(last_piece)))
    }

    /// The response in place of the handler's.
    #[cold]
    fn answer(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> response::Parts {
        self.ended();
        let shared = self.timer.shared();
        let retry = shared.settings.retry_after();
        shared.farewell(cx.exchange, retry);
        up.discard(cx);
        cx.exchange.claim(Claim::Farewell);
        let grpc_type = self.grpc_type.take().map(|content_type| *content_type);
        let (mut head, text) = unanswered::answer(&self.method, grpc_type, retry).into_parts();
        cx.exchange.join(&mut head.extensions);
        if self.has_upload {
            head.extensions.insert(UnreadUpload);
        }
        let text = (!text.is_empty()).then_some(text);
        self.rest = text.map(|data| Box::new(Piece::Data { data, last: true }));
        head
    }

    /// Nothing is left to end.
    fn ended(&mut self) {
        self.over = true;
        self.timer.clear();
    }

    /// Trailers end a stream: what is held goes first.
    #[cold]
    fn after_hold(&mut self, frame: Box<Frame<Bytes>>) -> Piece {
        if !frame.is_trailers() {
            // no third kind of frame exists in http-body 1
            return Piece::Other(frame);
        }
        self.ended();
        match self.records.finish() {
            Some(held) => {
                self.rest = Some(Box::new(Piece::Other(frame)));
                Piece::open(held)
            }
            None => Piece::Other(frame),
        }
    }
}

fn last_piece(frame: Frame<Bytes>) -> Piece {
    match frame.into_data() {
        Ok(data) => Piece::Data { data, last: true },
        Err(trailers) => Piece::Other(Box::new(trailers)),
    }
}

impl std::fmt::Debug for FarewellStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FarewellStage")
            .field("kind", &self.kind)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}
