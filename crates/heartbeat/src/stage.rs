//! The layer's effect on one response.

use std::{fmt, sync::Arc, task::Poll};

use bytes::Bytes;
use http::{Method, Request};
use http_body::SizeHint;
use tower_stream_core::{
    Claim, Exchange, RecordFormat,
    boundary::Scanner,
    bytes_changed,
    wrapper::{
        AfterHead, Begin, Hints, Hook, Piece, Polled, ResponseHead, Source, Stage, StageContext,
        at_least,
    },
};

use crate::{Heartbeat, HeartbeatLayer, fields::IdWatch, layer::Config, retry, silence::Silence};

/// Number of chunks that are searched at first. A producer that numbers its events does so from the first one on.
const SEARCHES: u8 = 16;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The state of [`HeartbeatLayer`] for one request.
pub struct HeartbeatStage(State);

enum State {
    Called {
        config: Arc<Config>,
        method: Method,
    },
    Following(Following),
    /// Nothing can be written, or nothing more.
    Over,
}

struct Following {
    silence: Silence,
    heartbeat: Heartbeat,
    scanner: Scanner,
    /// Whether a chunk that ends with a record passes without further processing.
    plain: bool,
    /// `None` if ids do not matter, or if a layer inside writes them.
    ids: Option<IdWatch>,
    /// Number of chunks that are still searched for ids. The search costs more than all other work on a chunk.
    searches: u8,
    after_ids: bool,
    /// Whether the stream uses CR as its line end.
    ends_in_two_crs: bool,
    /// Whether the `retry:` is still to be written.
    retry: bool,
    /// Number of data frames that are not empty.
    chunks: u64,
    /// Whether bytes were added, so that a digest in the trailers no longer applies.
    changed: bool,
}

impl Hook for HeartbeatLayer {
    type Stage = HeartbeatStage;

    #[inline]
    fn is_off(&self) -> bool {
        self.config().is_none()
    }

    #[inline]
    fn on_request<B>(&self, request: &mut Request<B>, _: &Exchange) -> Begin<HeartbeatStage> {
        let Some(config) = self.config() else {
            return Begin::Pass;
        };
        Begin::Follow(HeartbeatStage(State::Called {
            config: Arc::clone(config),
            method: request.method().clone(),
        }))
    }
}

impl Stage for HeartbeatStage {
    const RARE: bool = true;

    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        let called = std::mem::replace(&mut self.0, State::Over);
        let State::Called { config, method } = called else {
            return Poll::Ready(AfterHead::Leave);
        };
        let Some(following) = Following::begin(config, &method, head, up, cx.exchange) else {
            return Poll::Ready(AfterHead::Leave);
        };
        self.0 = State::Following(following);
        Poll::Ready(AfterHead::Stay)
    }

    #[inline(always)]
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        _: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        let State::Following(following) = &mut self.0 else {
            return;
        };
        match polled {
            Poll::Ready(Some(Ok(Piece::Data { data, last: false })))
                if following.passes(data, cx.exchange) => {}
            Poll::Pending if following.is_waiting(cx) => {}
            Poll::Pending => *polled = following.look(cx),
            Poll::Ready(_) => self.take(polled, cx),
        }
    }

    #[inline]
    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        let size = up.size_hint();
        match self.0 {
            State::Following(_) => at_least(size.lower()),
            State::Called { .. } | State::Over => size,
        }
    }
}

impl HeartbeatStage {
    /// Handles a piece that needs further processing, or the end.
    #[inline(never)]
    fn take(&mut self, polled: &mut Polled, cx: &mut StageContext<'_, '_>) {
        let State::Following(following) = &mut self.0 else {
            return;
        };
        match polled {
            Poll::Ready(Some(Ok(Piece::Data { data, last }))) => {
                *data = following.take(std::mem::take(data), cx.exchange);
                if !*last {
                    return;
                }
            }
            Poll::Ready(Some(Ok(piece))) => {
                // The digest is of the bytes without heartbeats.
                let keeps = !following.changed || piece.bytes_changed();
                if !keeps {
                    *polled = Poll::Ready(None);
                }
            }
            _ => {}
        }
        self.0 = State::Over;
    }
}

impl Following {
    /// Returns `None` if nothing can be written into this response, or a layer further inside writes already.
    fn begin(
        config: Arc<Config>,
        method: &Method,
        head: &mut ResponseHead,
        up: &impl Hints,
        exchange: &Exchange,
    ) -> Option<Self> {
        let kind = head.stream_kind();
        let format = kind.records()?;
        let chosen = head.extensions.get::<Heartbeat>();
        let heartbeat = chosen.or_else(|| config.heartbeat(kind)).cloned();
        // By default, the form that clients of the response's dialect ignore.
        let heartbeat = heartbeat.unwrap_or_else(|| exchange.dialect_of(kind).keep_alive().into());
        let delivery = head.delivery(method, &up.size_hint());
        // No byte may be added to a declared length, or to a partial response.
        let open = delivery.declared_length().is_none() && !delivery.is_bodiless();
        let writes = open && head.allows_insertion() && !up.is_end_stream();
        if !writes || heartbeat.is_none() || !exchange.claim(Claim::Heartbeats) {
            return None;
        }
        bytes_changed(&mut head.headers);
        let stamped = exchange.is_claimed(Claim::EventIds);
        let events = format == RecordFormat::Sse;
        Some(Self {
            scanner: Scanner::new(format),
            plain: false,
            ids: (heartbeat.asks_for_ids() && !stamped).then(IdWatch::default),
            searches: SEARCHES,
            after_ids: stamped,
            ends_in_two_crs: false,
            retry: events && config.retry.is_some(),
            chunks: 0,
            changed: false,
            heartbeat,
            silence: Silence::new(config),
        })
    }

    /// Returns whether a chunk passes unchanged, without further processing.
    #[inline(always)]
    fn passes(&mut self, data: &[u8], exchange: &Exchange) -> bool {
        let passes = self.plain && self.scanner.takes_whole(data);
        if passes {
            self.count(exchange);
        }
        passes
    }

    #[inline(always)]
    fn count(&mut self, exchange: &Exchange) {
        self.silence.end();
        self.chunks += 1;
        exchange.set_chunks(self.chunks);
    }

    /// Processes a chunk for which the fast path does not apply.
    fn take(&mut self, mut data: Bytes, exchange: &Exchange) -> Bytes {
        if data.is_empty() {
            return data;
        }
        let first = self.chunks == 0;
        self.count(exchange);
        if first && self.changed && data.starts_with(BYTE_ORDER_MARK) {
            // After a heartbeat this is not a byte order mark any more, but part of the first field name.
            data = data.slice(BYTE_ORDER_MARK.len()..);
        }
        if self.retry
            && self.scanner.at_boundary()
            && let Some(retry) = self.silence.config().retry
            && let Some(with) = retry::inserted(&data, retry)
        {
            self.retry = false;
            self.changed = true;
            data = with;
        }
        match &mut self.ids {
            Some(ids) => {
                ids.scan(&mut self.scanner, &data);
                self.searches = self.searches.saturating_sub(1);
                if ids.has_seen() {
                    self.after_ids = true;
                    self.ids = None;
                }
            }
            None => _ = self.scanner.last_boundary(&data),
        }
        self.plain = !self.retry && (self.ids.is_none() || self.searches == 0);
        self.ends_in_two_crs = data.ends_with(b"\r\r");
        data
    }

    /// Returns whether the pending body only has to wait.
    #[inline(always)]
    fn is_waiting(&self, cx: &StageContext<'_, '_>) -> bool {
        let began = self.chunks > 0 || self.silence.config().before_first;
        !began || self.silence.is_set(cx.task)
    }

    #[inline(never)]
    fn look(&mut self, cx: &mut StageContext<'_, '_>) -> Polled {
        // If a chunk ends inside of a CRLF, the LF may follow. After a heartbeat, a client would read that LF as one
        // more blank line.
        let cut = self.scanner.awaits_lf() && !self.ends_in_two_crs;
        let may_write = self.scanner.at_boundary() && !cut;
        if cx.exchange.is_terminal() {
            // After the last record of its dialect, a client reads no further, or takes what follows for an error.
            return Poll::Pending;
        }
        if !self.silence.is_over(may_write, cx.task) {
            return Poll::Pending;
        }
        self.changed = true;
        cx.exchange.count_heartbeat();
        cx.set_heartbeat(true);
        // The handler may send ids after this wait, so the following chunks are searched for them again.
        self.plain &= self.ids.is_none();
        let data = self.heartbeat.bytes(self.after_ids);
        Poll::Ready(Some(Ok(Piece::open(data))))
    }
}

impl fmt::Debug for HeartbeatStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.0 {
            State::Called { .. } => "called",
            State::Following(_) => "following",
            State::Over => "over",
        };
        f.debug_tuple("HeartbeatStage").field(&state).finish()
    }
}
