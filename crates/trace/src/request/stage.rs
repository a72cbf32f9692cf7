//! One request in its span, from the call to the end of the body.

use std::{task::Poll, time::Duration};

use http::StatusCode;
use tokio::time::Instant;
use tower_stream_core::{
    Claim, Exchange, StreamEnd, grpc,
    wrapper::{AfterHead, At, Piece, ResponseHead, Source, Stage, StageContext},
};
use tracing::{Span, span::Entered};

use crate::{access::Line, parent};

/// The state of the layer for one request: enters the span around everything inside, and records and logs how the
/// response ends.
#[derive(Debug)]
pub struct RequestSpan {
    span: Span,
    exchange: Exchange,
    seen: Seen,
    access: Option<Box<Line>>,
}

/// What the layer has observed of a response.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) called: Instant,
    pub(crate) status: Option<StatusCode>,
    pub(crate) chunks: i64,
    /// Whether a layer further inside writes heartbeats and counts the chunks (correctly even if compression in between
    /// joins some).
    counted_inside: bool,
    heartbeats: i64,
    pub(crate) bytes: u64,
    pub(crate) to_first: Option<Duration>,
    grpc_status: Option<u8>,
}

impl RequestSpan {
    pub(super) fn new(span: Span, exchange: Exchange, access: Option<Box<Line>>) -> Self {
        Self {
            span,
            exchange,
            seen: Seen {
                called: Instant::now(),
                status: None,
                chunks: 0,
                counted_inside: false,
                heartbeats: 0,
                bytes: 0,
                to_first: None,
                grpc_status: None,
            },
            access,
        }
    }

    /// Enters the span, and checks whether this makes it OpenTelemetry's current span.
    fn enter_first(&self) -> Entered<'_> {
        let outside = parent::activated();
        let entered = self.span.enter();
        if parent::activated() != outside {
            self.exchange.claim(Claim::ActivatedSpan);
        }
        entered
    }
}

impl Stage for RequestSpan {
    #[inline(always)]
    fn around<T>(stage: Option<&mut Self>, at: At, run: impl FnOnce() -> T) -> Option<T> {
        let _entered = stage.map(|stage| match at {
            At::Call => stage.enter_first(),
            At::Future | At::Body | At::Drop => stage.span.enter(),
        });
        Some(run())
    }

    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        _: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        self.seen.status = Some(head.status);
        self.seen.counted_inside = cx.exchange.is_claimed(Claim::Heartbeats);
        if self.seen.counted_inside || self.access.is_some() {
            // The exchange of the attempt with this response.
            self.exchange = cx.exchange.clone();
        }
        // Recorded now, for the log lines of a stream that continues for minutes.
        let code = i64::from(head.status.as_u16());
        self.span.record("http.response.status_code", code);
        Poll::Ready(AfterHead::Stay)
    }

    #[inline(always)]
    fn on_piece(&mut self, piece: &Piece) {
        let Some(data) = piece.data() else {
            return;
        };
        let seen = &mut self.seen;
        if seen.to_first.is_none() {
            seen.to_first = Some(seen.called.elapsed());
        }
        if let Some(line) = &self.access {
            line.chunk(seen.chunks, data.len(), &self.exchange);
        }
        seen.chunks += 1;
        seen.bytes += data.len() as u64;
    }

    fn on_heartbeat(&mut self, piece: &Piece) {
        self.seen.heartbeats += 1;
        self.seen.bytes += piece.data().map_or(0, |data| data.len() as u64);
    }

    fn on_grpc_status(&mut self, code: u8) {
        self.seen.grpc_status = Some(code);
    }

    fn on_latched(&mut self) {
        if let Some(line) = &mut self.access {
            line.latched();
        }
    }

    fn on_end(&mut self, end: &StreamEnd) {
        if self.seen.counted_inside {
            self.seen.chunks = i64::try_from(self.exchange.chunks()).unwrap_or(i64::MAX);
        }
        let seen = &self.seen;
        if let Some(line) = &self.access {
            // Entered, for a log format that prints the trace id.
            self.span.in_scope(|| line.write(end, seen, &self.exchange));
        }
        let outcome = end.outcome();
        let bad_status = seen.status.filter(StatusCode::is_server_error);
        let error_type = end
            .error_type()
            .or_else(|| bad_status.as_ref().map(StatusCode::as_str));
        let failed = end.is_server_error() || bad_status.is_some();
        // Without a head there is no body.
        let size = seen
            .status
            .map(|_| i64::try_from(seen.bytes).unwrap_or(i64::MAX));
        let chunks = seen.status.map(|_| seen.chunks);
        // Recorded together, because each call passes through the whole subscriber.
        tracing::record_all!(
            self.span,
            stream.outcome = outcome.as_str(),
            stream.chunks = chunks,
            stream.heartbeats = (seen.heartbeats > 0).then_some(seen.heartbeats),
            stream.ttfc_ms = seen.to_first.map(|time| time.as_secs_f64() * 1e3),
            http.response.body.size = size,
            error.type = error_type,
            rpc.grpc.status_code = seen.grpc_status.map(i64::from),
            rpc.response.status_code = seen.grpc_status.map(grpc::status_name),
            otel.status_code = failed.then_some("ERROR"),
        );
        if let StreamEnd::Failed(cause) = end
            && failed
        {
            self.span.record("otel.status_description", cause.message());
        }
    }
}
