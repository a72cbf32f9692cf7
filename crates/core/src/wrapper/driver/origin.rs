//! The body of the service, inside of every stage: what it has returned, and whether it may end.

use std::{fmt, future::Future, pin::Pin, task::Poll};

use bytes::Bytes;
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};

use super::record;
use crate::{
    BoxError, Cause, Claim, Delivery, Dialect, Exchange, FaultKind, StreamKind,
    dialect::Detector,
    wrapper::{
        Hints, Piece, Polled, ResponseHead, Source, StageContext,
        chain::{HeadPoll, HeadSource, Upstream},
    },
};

/// The body of the service, as the driver tracks it.
pub(super) struct Origin {
    pub(super) given: Length,
    pub(super) over: bool,
    /// Set if the body must return the last record of its dialect before it ends.
    pub(super) awaits: Option<Box<Detector>>,
    /// Set if a layer inside writes heartbeats into the body.
    pub(super) heartbeats: Option<Heard>,
    /// The content of a refusal, in place of a body.
    pub(super) refusal: Option<Box<Bytes>>,
}

/// How many bytes a body has returned, and how many were declared.
pub(super) struct Length {
    pub(super) declared: u64,
    pub(super) given: u64,
}

impl Length {
    /// Larger than the length of any body.
    const UNDECLARED: u64 = u64::MAX;

    pub(super) const fn unknown() -> Self {
        Self {
            declared: Self::UNDECLARED,
            given: 0,
        }
    }

    fn of(delivery: Delivery) -> Self {
        Self {
            declared: delivery.declared_length().unwrap_or(Self::UNDECLARED),
            given: 0,
        }
    }

    /// Returns whether the declared length has been reached.
    #[inline]
    pub(super) fn is_reached(&self) -> bool {
        self.given >= self.declared
    }

    /// Returns whether a body that ends now is too short.
    #[inline]
    fn is_short(&self) -> bool {
        self.given < self.declared && self.declared != Self::UNDECLARED
    }
}

/// The counters of the heartbeat layer inside, as of the last frame.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) chunks: u64,
    pub(super) heartbeats: u64,
}

impl Heard {
    /// Returns whether the frame that just arrived is a heartbeat. A layer in between may have joined one with a chunk.
    #[inline]
    fn is_heartbeat(&mut self, exchange: &Exchange) -> bool {
        let before = std::mem::replace(
            self,
            Self {
                chunks: exchange.chunks(),
                heartbeats: exchange.heartbeats(),
            },
        );
        before.chunks == self.chunks && before.heartbeats != self.heartbeats
    }
}

/// The body of the service, inside of every stage.
pub(super) struct Root<'a, B> {
    pub(super) origin: &'a mut Origin,
    pub(super) body: Pin<&'a mut Option<B>>,
}

impl<B: Body> Root<'_, B> {
    fn hints(&self) -> RootHints<'_, B> {
        RootHints {
            origin: self.origin,
            body: self.body.as_ref().get_ref().as_ref(),
        }
    }
}

impl<B: Body> Hints for Root<'_, B> {
    fn size_hint(&self) -> SizeHint {
        self.hints().size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.hints().is_end_stream()
    }
}

impl<B> Root<'_, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    #[inline(always)]
    fn next(&mut self, cx: &mut StageContext<'_, '_>) -> Polled {
        let Some(mut body) = self.body.as_mut().as_pin_mut() else {
            return Poll::Ready(self.origin.refused());
        };
        let origin = &mut *self.origin;
        if origin.over {
            return Poll::Ready(None);
        }
        match body.as_mut().poll_frame(cx.task) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    origin.given.given += data.len() as u64;
                    if let Some(heard) = &mut origin.heartbeats {
                        cx.heartbeat = heard.is_heartbeat(cx.exchange);
                    }
                    let last = body.is_end_stream() && !origin.given.is_short();
                    if origin.passes(&data, last) {
                        Poll::Ready(Some(Ok(Piece::Data { data, last })))
                    } else {
                        Poll::Ready(Some(origin.look(data, last, cx.exchange)))
                    }
                }
                Err(frame) => Poll::Ready(Some(origin.other(frame, cx.exchange))),
            },
            Poll::Ready(None) => Poll::Ready(origin.end(cx.exchange).err().map(Err)),
            Poll::Ready(Some(Err(error))) => {
                origin.over = true;
                let error = error.into();
                record(cx.exchange, &*error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<B> Upstream for Root<'_, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    #[inline(always)]
    fn poll_inline<const PLAIN: bool>(
        &mut self,
        cx: &mut StageContext<'_, '_>,
        polled: &mut Polled,
    ) {
        *polled = self.next(cx);
    }
}

impl<B> Source for Root<'_, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    #[inline]
    fn poll(&mut self, cx: &mut StageContext<'_, '_>) -> Polled {
        self.next(cx)
    }

    #[cold]
    fn discard(&mut self, _: &mut StageContext<'_, '_>) {
        self.origin.over = true;
        self.origin.refusal = None;
        self.body.set(None);
    }
}

impl Origin {
    #[cold]
    fn refused(&mut self) -> Option<Result<Piece, BoxError>> {
        let data = *self.refusal.take()?;
        (!data.is_empty()).then_some(Ok(Piece::Data { data, last: true }))
    }

    /// Fast path: returns true if nothing has to be checked in this data frame. Returns false if the frame may contain
    /// the last record, or may end a body whose last record has not been seen.
    #[inline(always)]
    fn passes(&mut self, data: &[u8], last: bool) -> bool {
        match &mut self.awaits {
            Some(detector) => !last && !self.given.is_reached() && detector.passes(data),
            None => true,
        }
    }

    /// Handles a data frame that may contain the last record.
    #[inline(never)]
    fn look(
        &mut self,
        data: Bytes,
        mut last: bool,
        exchange: &Exchange,
    ) -> Result<Piece, BoxError> {
        if let Some(detector) = &mut self.awaits {
            if detector.push(&data) {
                self.awaits = None;
                exchange.set_terminal();
            } else if self.given.is_reached() && !self.may_end(exchange) {
                // Fail in place of this frame: with it, the client would have the complete declared length, and could
                // not see that the last record is missing.
                self.over = true;
                return Err(incomplete(exchange));
            } else if last {
                last = self.may_end(exchange);
            }
        }
        Ok(Piece::Data { data, last })
    }

    /// Returns whether the body may end here. If not, its end comes with the next poll.
    #[cold]
    fn may_end(&mut self, exchange: &Exchange) -> bool {
        let Some(detector) = &mut self.awaits else {
            return true;
        };
        let may_end = detector.finish();
        if may_end {
            self.awaits = None;
            exchange.set_terminal();
        }
        may_end
    }

    /// Handles a frame without data.
    #[cold]
    fn other(&mut self, frame: Frame<Bytes>, exchange: &Exchange) -> Result<Piece, BoxError> {
        if frame.is_trailers() {
            self.end(exchange)?;
        }
        Ok(Piece::Other(Box::new(frame)))
    }

    /// Handles the end of the body. Fails if data or a last record is missing.
    fn end(&mut self, exchange: &Exchange) -> Result<(), BoxError> {
        self.over = true;
        if self.given.is_short() {
            return Err(self.short(exchange));
        }
        match self.awaits.is_some() && !self.may_end(exchange) {
            true => Err(incomplete(exchange)),
            false => Ok(()),
        }
    }

    #[cold]
    fn short(&self, exchange: &Exchange) -> BoxError {
        let cause = Cause::short_body(self.given.given, self.given.declared);
        exchange.record(cause.clone());
        cause.into()
    }
}

#[cold]
fn incomplete(exchange: &Exchange) -> BoxError {
    let cause = Cause::new(
        FaultKind::Incomplete,
        "the body ended without the last record of its dialect",
    );
    exchange.record(cause.clone());
    cause.into()
}

/// The body of the service as in [`Root`], borrowed only to read its hints.
pub(super) struct RootHints<'a, B> {
    pub(super) origin: &'a Origin,
    pub(super) body: Option<&'a B>,
}

impl<B: Body> Hints for RootHints<'_, B> {
    fn size_hint(&self) -> SizeHint {
        // The hint stays inexact for a body that has ended too: with an exact zero, a stage that polled ahead would
        // report an exact size, hyper would send a Content-Length, and trailers or an error would be lost.
        match self.body {
            Some(body) => body.size_hint(),
            None => {
                let refusal = self.origin.refusal.as_ref();
                SizeHint::with_exact(refusal.map_or(0, |data| data.len() as u64))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.body {
            Some(body) if !self.origin.over => {
                let owes = self.origin.given.is_short() || self.origin.awaits.is_some();
                body.is_end_stream() && !owes
            }
            _ => self
                .origin
                .refusal
                .as_ref()
                .is_none_or(|data| data.is_empty()),
        }
    }
}

/// Determines the dialect of the response. Returns a detector if it has a last record and no layer inside looks for it.
#[inline]
fn awaits(
    head: &mut ResponseHead,
    method: &Method,
    delivery: Delivery,
    exchange: &Exchange,
) -> Option<Box<Detector>> {
    let extension = match head.extensions.is_empty() {
        true => None,
        false => head.extensions.get::<Dialect>().copied(),
    };
    let kind = head.stream_kind();
    let events = kind == StreamKind::Sse;
    let named = extension.or_else(|| events.then(|| head.announced_dialect()).flatten());
    if named.is_none() && !exchange.has_dialect() {
        return None;
    }
    named_dialect(
        named,
        kind,
        head.status.is_success(),
        method,
        delivery,
        exchange,
    )
}

#[inline(never)]
fn named_dialect(
    named: Option<Dialect>,
    kind: StreamKind,
    success: bool,
    method: &Method,
    delivery: Delivery,
    exchange: &Exchange,
) -> Option<Box<Detector>> {
    if let Some(dialect) = named {
        exchange.set_dialect(dialect);
    }
    let follows = success && !delivery.is_bodiless() && delivery.declared_length() != Some(0);
    let dialect = exchange.dialect()?;
    if !follows || dialect.kind() != kind {
        return None;
    }
    let detector = dialect.detector(method)?;
    exchange
        .claim(Claim::LastRecord)
        .then(|| Box::new(detector))
}

/// The future of the service, inside of every stage.
pub(super) struct HeadRoot<'a, 'b, F, E, B> {
    pub(super) future: Pin<&'a mut Option<F>>,
    pub(super) error: Option<E>,
    /// Address of the wrapper whose service this is.
    pub(super) outside: usize,
    pub(super) method: &'b Method,
    pub(super) number: &'b mut u32,
    pub(super) body: Root<'a, B>,
}

impl<F, E, B: Body> Hints for HeadRoot<'_, '_, F, E, B> {
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl<F, E, B> Upstream for HeadRoot<'_, '_, F, E, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    #[inline(always)]
    fn poll_inline<const PLAIN: bool>(
        &mut self,
        cx: &mut StageContext<'_, '_>,
        polled: &mut Polled,
    ) {
        self.body.poll_inline::<PLAIN>(cx, polled);
    }
}

impl<F, E, B> Source for HeadRoot<'_, '_, F, E, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut StageContext<'_, '_>) -> Polled {
        self.body.poll(cx)
    }

    fn discard(&mut self, cx: &mut StageContext<'_, '_>) {
        self.future.set(None);
        self.body.discard(cx);
    }
}

impl<F, E, B> HeadSource for HeadRoot<'_, '_, F, E, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: fmt::Display + 'static,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    #[inline]
    fn poll_head(
        &mut self,
        head: &mut Option<ResponseHead>,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<HeadPoll> {
        if head.is_some() {
            return Poll::Ready(HeadPoll::Head);
        }
        let Some(future) = self.future.as_mut().as_pin_mut() else {
            // The call panicked.
            return Poll::Ready(HeadPoll::Caught);
        };
        let Poll::Ready(answer) = future.poll(cx.task) else {
            return Poll::Pending;
        };
        match answer {
            Ok(response) => {
                let (mut parts, body) = response.into_parts();
                cx.exchange.join_within(self.outside, &mut parts.extensions);
                *self.number = cx.exchange.number_body();
                let head = head.insert(ResponseHead::new(parts));
                // Heads arrive from the inside outwards, so an existing claim was made inside.
                let claimed = cx.exchange.is_claimed(Claim::Heartbeats);
                self.body.origin.heartbeats = claimed.then(Heard::default);
                let delivery = head.delivery(self.method, &body.size_hint());
                self.body.origin.given = Length::of(delivery);
                self.body.origin.awaits = awaits(head, self.method, delivery, cx.exchange);
                self.body.body.set(Some(body));
                Poll::Ready(HeadPoll::Head)
            }
            Err(error) => {
                cx.exchange.record_with(|| Cause::of_service(&error));
                self.error = Some(error);
                Poll::Ready(HeadPoll::Failed)
            }
        }
    }

    fn set_refusal(&mut self, content: Bytes) {
        self.body.origin.refusal = Some(Box::new(content));
    }
}
