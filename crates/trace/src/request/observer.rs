//! What the request span learns from the head to the end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body::Frame;
use tokio::time::Instant;
use tower_stream_core::{Observe, StreamEnd, grpc};
use tracing::Span;

/// Follows one request to the end of its body.
#[derive(Debug)]
pub struct RequestObserver {
    span: Arc<Span>,
    called: Instant,
    status: Option<StatusCode>,
    chunks: i64,
    bytes: u64,
    to_first: Option<Duration>,
    grpc_status: Option<u8>,
}

impl RequestObserver {
    pub(super) fn new(span: Arc<Span>) -> Self {
        Self {
            span,
            called: Instant::now(),
            status: None,
            chunks: 0,
            bytes: 0,
            to_first: None,
            grpc_status: None,
        }
    }

    pub(super) fn head(&mut self, status: StatusCode) {
        self.status = Some(status);
        // now, for whoever reads a log line of a stream that goes on for minutes
        let code = i64::from(status.as_u16());
        self.span.record("http.response.status_code", code);
    }
}

impl Observe for Box<RequestObserver> {
    fn frame(&mut self, frame: &Frame<Bytes>) {
        let Some(data) = frame.data_ref() else {
            return;
        };
        if self.to_first.is_none() {
            self.to_first = Some(self.called.elapsed());
        }
        self.chunks += 1;
        self.bytes += data.len() as u64;
    }

    fn grpc_status(&mut self, code: u8) {
        self.grpc_status = Some(code);
    }

    fn end(&mut self, end: &StreamEnd) {
        let outcome = end.outcome();
        let bad_status = self.status.filter(StatusCode::is_server_error);
        let error_type = end
            .error_type()
            .or_else(|| bad_status.as_ref().map(StatusCode::as_str));
        let failed = end.is_server_error() || bad_status.is_some();
        // without a head there is no body to speak of
        let size = self
            .status
            .map(|_| i64::try_from(self.bytes).unwrap_or(i64::MAX));
        let chunks = self.status.map(|_| self.chunks);
        // at once, for each record goes through the whole subscriber
        tracing::record_all!(
            self.span,
            stream.outcome = outcome.as_str(),
            stream.chunks = chunks,
            stream.ttfc_ms = self.to_first.map(|time| time.as_secs_f64() * 1e3),
            http.response.body.size = size,
            error.type = error_type,
            rpc.grpc.status_code = self.grpc_status.map(i64::from),
            rpc.response.status_code = self.grpc_status.map(grpc::status_name),
            otel.status_code = failed.then_some("ERROR"),
        );
        if let StreamEnd::Failed(cause) = end
            && failed
        {
            self.span.record("otel.status_description", cause.message());
        }
    }
}
