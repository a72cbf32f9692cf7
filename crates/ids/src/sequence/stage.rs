//! One response under a [`SequenceLayer`].

use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body::SizeHint;
use tower_stream_core::{
    Claim, Exchange, RequestId, Sequence, StreamKind, bytes_changed,
    wrapper::{
        AfterHead, Begin, Hints, Hook, Piece, Polled, ResponseHead, Source, Stage, StageContext,
        at_least,
    },
};

use super::{Config, EventId, FirstEvent, SequenceLayer, json::JsonStamper, sse::SseStamper};

/// The state of [`SequenceLayer`] for one response.
#[derive(Debug)]
pub struct SequenceStage {
    config: Config,
    /// Number of the last event that the client has received.
    last: u64,
    sequence: Sequence,
    is_head: bool,
    stamp: Stamp,
    /// Whether this layer numbers the chunks. False if a layer inside does.
    draws: bool,
}

/// What is inserted into a body.
#[derive(Debug)]
enum Stamp {
    Nothing,
    Sse(Box<SseStamper>),
    Json(JsonStamper),
}

impl Hook for SequenceLayer {
    type Stage = SequenceStage;

    #[inline]
    fn is_off(&self) -> bool {
        !self.config.enabled
    }

    #[inline]
    fn on_request<B: 'static>(
        &self,
        request: &mut Request<B>,
        exchange: &Exchange,
    ) -> Begin<SequenceStage> {
        let config = self.config;
        if !config.enabled {
            return Begin::Pass;
        }
        let last = config.continues.then(|| last_event_id(request.headers()));
        Begin::Follow(SequenceStage {
            config,
            last: last.flatten().unwrap_or(0),
            sequence: exchange.sequence(),
            is_head: request.method() == Method::HEAD,
            stamp: Stamp::Nothing,
            draws: false,
        })
    }
}

/// A `Last-Event-ID` (WHATWG HTML section 9.2.3) that is a number.
fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    let id = headers.get("last-event-id")?.to_str().ok()?;
    let digits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| id.parse().ok())?
        .filter(|last| *last < 1 << 63)
}

impl Stage for SequenceStage {
    const RARE: bool = true;

    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        self.stamp = self.stamp(head, up, cx.exchange.request_id());
        // Another layer adds its ids, or has replaced those of the handler.
        if matches!(self.stamp, Stamp::Sse(_)) && cx.exchange.is_claimed(Claim::EventIds) {
            self.stamp = Stamp::Nothing;
        }
        let stamps = !matches!(self.stamp, Stamp::Nothing);
        if stamps {
            bytes_changed(&mut head.headers);
            if matches!(self.stamp, Stamp::Sse(_)) {
                cx.exchange.claim(Claim::EventIds);
            }
        }
        self.draws = cx.exchange.claim(Claim::ChunkNumbers);
        Poll::Ready(match stamps || self.draws {
            true => AfterHead::Stay,
            false => AfterHead::Leave,
        })
    }

    #[inline]
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        _: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        match polled {
            // A heartbeat is not a record of the handler, so it gets no id.
            Poll::Ready(Some(Ok(_))) if cx.is_heartbeat() => {}
            Poll::Ready(Some(Ok(Piece::Data { data, .. }))) => {
                *data = self.stamped(std::mem::take(data));
            }
            Poll::Ready(Some(Ok(piece))) => {
                // A digest in the trailers is of the bytes without stamps, as one in the head was.
                let keeps = matches!(self.stamp, Stamp::Nothing) || piece.bytes_changed();
                if !keeps {
                    *polled = Poll::Ready(None);
                }
            }
            _ => {}
        }
    }

    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        let size = up.size_hint();
        match self.stamp {
            Stamp::Nothing => size,
            Stamp::Sse(_) | Stamp::Json(_) => at_least(size.lower()),
        }
    }
}

impl SequenceStage {
    fn stamp(
        &self,
        head: &mut ResponseHead,
        up: &impl Hints,
        request_id: Option<&RequestId>,
    ) -> Stamp {
        // The response to HEAD has the headers of the response to GET, although its body may already be gone.
        let ended = up.is_end_stream() && !self.is_head;
        if ended || !head.allows_insertion() {
            return Stamp::Nothing;
        }
        match (head.stream_kind(), self.config.event_id) {
            (StreamKind::Sse, Some(event_id)) => {
                let name = match event_id {
                    EventId::Number => None,
                    EventId::RequestAndNumber => request_id.cloned(),
                };
                let first = head.extensions.get::<FirstEvent>();
                let before = first.map_or(self.last, |FirstEvent(first)| first.saturating_sub(1));
                Stamp::Sse(Box::new(SseStamper::new(name, before)))
            }
            (StreamKind::JsonLines, _) if self.config.json_lines => {
                Stamp::Json(JsonStamper::lines())
            }
            (StreamKind::JsonSeq, _) if self.config.json_lines => {
                Stamp::Json(JsonStamper::text_sequence())
            }
            _ => Stamp::Nothing,
        }
    }

    /// Returns the next chunk, numbered, with its insertions.
    #[inline]
    fn stamped(&mut self, data: Bytes) -> Bytes {
        let (sequence, draws) = (&self.sequence, self.draws);
        let draw = || match draws {
            true => sequence.next(),
            false => sequence.last(),
        };
        match &mut self.stamp {
            Stamp::Nothing => {
                draw();
                data
            }
            Stamp::Sse(stamper) => {
                draw();
                stamper.stamp(data)
            }
            Stamp::Json(stamper) => {
                let mut drawn = false;
                let stamped = stamper.stamp(data, || {
                    drawn = true;
                    draw()
                });
                if !drawn {
                    draw();
                }
                stamped
            }
        }
    }
}
