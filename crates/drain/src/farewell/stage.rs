//! What [`FarewellLayer`] does with one request.

use std::{sync::Arc, task::Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Version, response};
use http_body::{Frame, SizeHint};
use tower_stream_core::{
    Claim, Exchange, RecordHold, Records, StreamKind, grpc,
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
    policy: Option<Policy>,
    method: Method,
    version: Version,
    /// The client may still be sending when the drain answers.
    has_upload: bool,
    grpc_type: Option<Box<HeaderValue>>,
    kind: StreamKind,
    records: Records,
    /// The last piece to return: trailers that follow a record that was held back, or the content of the drain's own
    /// response.
    rest: Option<Box<Piece>>,
    /// How much of a declared length is still to come.
    left: Option<u64>,
    /// Whether the inner body has been polled. Until then the stream does not end, so that what was ready together with
    /// the head is sent.
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
        let chosen = head.extensions.get().copied().or(self.policy);
        let policy = chosen.unwrap_or_else(|| match cx.exchange.is_claimed(Claim::Resumable) {
            true => Policy::EndEarly,
            false => Policy::RunToDeadline,
        });
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
        // Nearly every poll returns a piece that passes unchanged.
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
        // A farewell may be added to the body or replace the rest of it, so the exact size is not known.
        at_least(hint.lower() + self.records.held() as u64)
    }
}

impl FarewellStage {
    /// Handles what the inner body returned, unless it passes unchanged. Polls on until there is something to return.
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
                    // A heartbeat is written between two records, so no part of a record is held back.
                    if cx.is_heartbeat() || self.records.passes(&data) {
                        if last {
                            self.ended();
                        }
                        return Poll::Ready(Some(Ok(Piece::Data { data, last })));
                    }
                    // Not marked as the last piece, because the next poll of the inner body returns its end.
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
                    // The time may have come after the check and before the waker was registered.
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
                    // The status of a gRPC call may be ready after its last message, so a call ends only while its body
                    // is pending.
                    && (waits || (self.begun && self.records.are_held()))
            }
        }
    }

    /// Ends the stream. The cause is recorded before anything is dropped.
    #[cold]
    fn end(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Polled {
        self.ended();
        if self.left == Some(0) {
            // The client has received the whole declared length.
            return Poll::Ready(None);
        }
        if cx.exchange.is_terminal() {
            // The body has returned the last record of its dialect, so the response is complete.
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
        let farewell = farewell.ok_or_else(|| cause.into());
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
            // In http-body 1, a frame is either data or trailers, so this does not happen.
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
