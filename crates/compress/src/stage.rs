//! The layer's effect on one response.

use std::{fmt, io, sync::Arc, task::Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body::SizeHint;
use tower_stream_core::{
    BoxError, Cause, Exchange, FaultKind, bytes_encoded,
    wrapper::{
        AfterHead, Begin, Hints, Hook, Piece, Polled, ResponseHead, Source, Stage, StageContext,
        at_least,
    },
};

use crate::{
    Coding, CompressLayer, accept,
    eligible::{is_eligible, vary},
    encoder::{Encoder, Then, with_output},
    switch::{Reserved, Shared},
};

/// One poll encodes at most this much, so that a long frame does not hold the thread for long.
const MOST: usize = 64 * 1024;

/// Encoded data is returned when there is this much, although more could be encoded.
const ENOUGH: usize = 16 * 1024;

/// Number of frames that one poll takes at most.
const FRAMES: u32 = 1024;

/// The state of [`CompressLayer`] for one request.
pub struct CompressStage(State);

enum State {
    Called {
        shared: Arc<Shared>,
        method: Method,
        chosen: Option<(Coding, u8)>,
    },
    /// Boxed: all stages of a request share one allocation, and most responses are not compressed.
    Encoding(Box<Encoding>),
}

struct Encoding {
    coding: Coding,
    level: u8,
    /// Created with the first data: until then, a stream that waits needs no memory.
    encoder: Option<Encoder>,
    reserved: Reserved,
    /// Whether the encoder may hold data that has not been returned.
    dirty: bool,
    /// The rest of a long frame, and whether the body ends with it.
    rest: Option<(Bytes, bool)>,
    /// What the body returned after the data, to be returned after the encoded data.
    after: Option<Result<Piece, BoxError>>,
    /// Number of declared bytes that the body has not returned yet.
    undelivered: u64,
    /// Whether the end of the encoded data has been returned.
    ended: bool,
}

impl Hook for CompressLayer {
    type Stage = CompressStage;

    #[inline]
    fn is_off(&self) -> bool {
        self.shared().is_none()
    }

    #[inline]
    fn on_request<B>(&self, request: &mut Request<B>, _: &Exchange) -> Begin<CompressStage> {
        let Some(switch) = self.shared() else {
            return Begin::Pass;
        };
        let Some(codings) = switch.shared.offered() else {
            return Begin::Pass;
        };
        Begin::Follow(CompressStage(State::Called {
            shared: Arc::clone(&switch.shared),
            method: request.method().clone(),
            chosen: accept::choose(request.headers(), codings),
        }))
    }
}

impl Stage for CompressStage {
    const RARE: bool = true;

    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        _: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        let State::Called {
            shared,
            method,
            chosen,
        } = &self.0
        else {
            return Poll::Ready(AfterHead::Leave);
        };
        let delivery = head.delivery(method, &up.size_hint());
        let declared = delivery.declared_length();
        if delivery.is_bodiless() || up.is_end_stream() || !is_eligible(head, declared) {
            return Poll::Ready(AfterHead::Leave);
        }
        // A cache must know that other requests get other bytes, also if this response is identity.
        vary(&mut head.headers);
        let Some((coding, level)) = *chosen else {
            return Poll::Ready(AfterHead::Leave);
        };
        let Some(reserved) = shared.reserve(coding, level) else {
            return Poll::Ready(AfterHead::Leave);
        };
        let headers = &mut head.headers;
        let name = HeaderValue::from_static(coding.as_str());
        headers.insert(header::CONTENT_ENCODING, name);
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::ACCEPT_RANGES);
        let etag = headers.get(header::ETAG).cloned();
        bytes_encoded(headers, etag.as_ref());
        self.0 = State::Encoding(Box::new(Encoding {
            coding,
            level,
            encoder: None,
            reserved,
            dirty: false,
            rest: None,
            after: None,
            undelivered: declared.unwrap_or(u64::MAX),
            ended: false,
        }));
        Poll::Ready(AfterHead::Stay)
    }

    #[inline]
    fn on_poll(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        match &mut self.0 {
            State::Encoding(encoding) => encoding.go_on(up, cx),
            State::Called { .. } => None,
        }
    }

    #[inline]
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        if let State::Encoding(encoding) = &mut self.0 {
            encoding.take(polled, up, cx);
        }
    }

    #[inline]
    fn has_more(&self) -> bool {
        match &self.0 {
            State::Encoding(encoding) => !encoding.ended || encoding.after.is_some(),
            State::Called { .. } => false,
        }
    }

    #[inline]
    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        match self.0 {
            State::Encoding(_) => at_least(0),
            State::Called { .. } => up.size_hint(),
        }
    }
}

impl Encoding {
    /// Returns what is left of the last poll, if anything.
    fn go_on(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        if let Some((data, last)) = self.rest.take() {
            let mut polled = Poll::Ready(Some(Ok(Piece::Data { data, last })));
            cx.set_heartbeat(false);
            self.take(&mut polled, up, cx);
            return Some(polled);
        }
        match self.after.take() {
            Some(after) => Some(Poll::Ready(Some(after))),
            None => self.ended.then_some(Poll::Ready(None)),
        }
    }

    /// Encodes the piece in `polled` and those that follow it and are ready.
    #[inline(never)]
    fn take(&mut self, polled: &mut Polled, up: &mut impl Source, cx: &mut StageContext<'_, '_>) {
        if polled.is_pending() && !self.dirty {
            return;
        }
        with_output(|out| {
            if let Err(error) = self.encode(polled, up, cx, out) {
                let cause = Cause::new(FaultKind::Other, format!("{}: {error}", self.coding));
                cx.exchange.record(cause.clone());
                up.discard(cx);
                self.ended = true;
                *polled = Poll::Ready(Some(Err(cause.into())));
            }
        });
    }

    fn encode(
        &mut self,
        polled: &mut Polled,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let (mut taken, mut frames) = (0, 0);
        let mut heartbeat = true;
        loop {
            match polled {
                Poll::Ready(Some(Ok(Piece::Data { data, last }))) => {
                    heartbeat &= cx.is_heartbeat();
                    let (mut data, mut last) = (std::mem::take(data), *last);
                    if data.len() > MOST - taken {
                        let rest = data.split_off(MOST - taken);
                        self.rest = Some((rest, std::mem::take(&mut last)));
                    }
                    taken += data.len();
                    frames += 1;
                    self.undelivered = self.undelivered.saturating_sub(data.len() as u64);
                    if last || (self.undelivered == 0 && self.rest.is_none()) {
                        self.finish(&data, out)?;
                        break;
                    }
                    if !data.is_empty() {
                        self.write(&data, Then::More, out)?;
                    }
                    let full = taken >= MOST || frames >= FRAMES || out.len() >= ENOUGH;
                    if full {
                        if out.is_empty() {
                            self.flush(out)?;
                        }
                        break;
                    }
                    *polled = up.poll(cx);
                }
                Poll::Pending => {
                    self.flush(out)?;
                    break;
                }
                Poll::Ready(None) => {
                    self.finish(&[], out)?;
                    break;
                }
                Poll::Ready(Some(Err(_))) => {
                    // Without the end of the coding, the client sees that the data is not complete.
                    self.flush(out)?;
                    self.ended = true;
                    self.put_off(polled);
                    break;
                }
                Poll::Ready(Some(Ok(piece))) if piece.is_last() => {
                    self.finish(&[], out)?;
                    if piece.bytes_changed() {
                        self.put_off(polled);
                    }
                    break;
                }
                Poll::Ready(Some(Ok(_))) => {
                    self.flush(out)?;
                    self.put_off(polled);
                    break;
                }
            }
        }
        self.reserved.encoded += out.len() as u64;
        if out.is_empty() && self.after.is_some() {
            *polled = Poll::Ready(self.after.take());
        } else if !out.is_empty() || !polled.is_pending() {
            cx.set_heartbeat(heartbeat && frames > 0);
            *polled = Poll::Ready(Some(Ok(Piece::Data {
                data: Bytes::copy_from_slice(out),
                last: self.ended && self.after.is_none(),
            })));
        }
        Ok(())
    }

    /// Keeps the piece for the next poll.
    fn put_off(&mut self, polled: &mut Polled) {
        if let Poll::Ready(piece) = std::mem::replace(polled, Poll::Pending) {
            self.after = piece;
        }
    }

    fn finish(&mut self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.write(data, Then::Finish, out)?;
        self.ended = true;
        self.dirty = false;
        // Its memory is free before the client has read the end.
        self.encoder = None;
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if self.dirty {
            self.write(&[], Then::Flush, out)?;
            self.dirty = false;
        }
        Ok(())
    }

    fn write(&mut self, data: &[u8], then: Then, out: &mut Vec<u8>) -> io::Result<()> {
        #[cfg(test)]
        if self
            .reserved
            .shared
            .fails
            .load(std::sync::atomic::Ordering::Relaxed)
        {
            return Err(io::Error::other("scripted"));
        }
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            None => self.encoder.insert(Encoder::new(self.coding, self.level)?),
        };
        self.dirty = true;
        self.reserved.plain += data.len() as u64;
        encoder.encode(data, then, out)
    }
}

impl fmt::Debug for CompressStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.0 {
            State::Called { .. } => "called",
            State::Encoding(_) => "encoding",
        };
        f.debug_tuple("CompressStage").field(&state).finish()
    }
}
