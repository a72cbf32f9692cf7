//! Finds a stream for a request that has a cursor.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header, request::Parts};
use tokio::time::{Instant, timeout};
use tower_stream_core::{Claim, Exchange, Problem, answer_method, retry_after};

use crate::{
    Durability, LogErrorKind, StreamId,
    body::StreamBody,
    cursor::{Position, Refused},
    head::{Head, announce},
    live::Live,
    log::forked_at,
    place::Place,
    reader::Reader,
    resume::Shared,
};

/// In the extensions of a response that is a stream of this crate, so that no layer of it begins another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IsResumed;

/// The value of `Last-Event-ID`. An empty one is none (WHATWG HTML section 9.2.3).
pub(crate) fn last_event_id(headers: &HeaderMap) -> Option<Result<&str, Refused>> {
    let value = headers.get("last-event-id")?;
    if value.is_empty() {
        return None;
    }
    Some(value.to_str().map_err(|_| Refused::Malformed))
}

impl Shared {
    /// The response to a request for the rest of a stream.
    pub(crate) async fn open(
        self: &Arc<Self>,
        request: &Parts,
        id: StreamId,
        at: Position,
    ) -> Response<StreamBody> {
        let owner = self.owner_of(request);
        let public = self.issuer.issue(&id, owner.as_deref());
        self.open_as(request, id, &public, at).await
    }

    /// The same, if the public id is known. Reads only the method and the [`Exchange`] of the request.
    pub(crate) async fn open_as(
        self: &Arc<Self>,
        request: &Parts,
        id: StreamId,
        public: &str,
        at: Position,
    ) -> Response<StreamBody> {
        // A cursor of a later epoch: another server goes on with the stream, which the producer here does not know yet.
        let live = self.live(&id).filter(|live| at.epoch <= live.epoch);
        if let Some(live) = live {
            return self.open_live(request, &live, public, at);
        }
        let outer = Exchange::get(&request.extensions);
        let asked = Instant::now();
        let status = match timeout(self.lease, self.look_after(&id, outer)).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) if error.kind() == LogErrorKind::NotFound => return self.gone(request),
            _ => return self.unavailable(&request.method),
        };
        // It may just have been restarted.
        if let Some(live) = self.live(&id) {
            return self.open_live(request, &live, public, at);
        }
        let Some(head) = Head::decode(status.meta.clone()) else {
            return self.gone(request);
        };
        if at.epoch > status.epoch {
            // The log has lost what it had.
            return self.gone(request);
        }
        let (after, fork) = resumed(&status.forks, &head, at);
        if status.end_offset().is_some_and(|end| after >= end) {
            return self.no_content();
        }
        let has_gap = status.first > after + 1 && status.first <= status.next;
        let lost = (has_gap || fork) && status.end_offset() != Some(after + 1);
        if lost && self.refuses_gaps {
            return self.gone(request);
        }
        self.respond(request, &head, public, |head| {
            let mut reader = Reader::stored(self, id, head, outer, public, after, (&status, asked));
            if fork && lost {
                reader.forked();
            }
            reader
        })
    }

    fn open_live(
        self: &Arc<Self>,
        request: &Parts,
        live: &Arc<Live>,
        public: &str,
        at: Position,
    ) -> Response<StreamBody> {
        if at.epoch > live.epoch {
            return self.gone(request);
        }
        let (after, fork) = resumed(&live.forks, &live.head, at);
        let end = live.end_offset();
        if end.is_some_and(|end| after >= end) {
            return self.no_content();
        }
        let fork = fork && end != Some(after + 1);
        if fork && self.refuses_gaps {
            return self.gone(request);
        }
        let outer = Exchange::get(&request.extensions);
        self.respond(request, &live.head, public, |_| {
            let place = Place::new(self, live, live.join(), outer);
            let mut reader = Reader::live(self, place, outer, public, after);
            if fork {
                reader.forked();
            }
            reader
        })
    }

    fn respond(
        self: &Arc<Self>,
        request: &Parts,
        head: &Head,
        public: &str,
        reader: impl FnOnce(Head) -> Reader,
    ) -> Response<StreamBody> {
        if let Some(exchange) = Exchange::get(&request.extensions) {
            exchange.claim(Claim::EventIds);
            self.mark(exchange);
            if let Some(dialect) = head.dialect() {
                exchange.set_dialect(dialect);
            }
        }
        self.count(|figures| &figures.resumed);
        #[cfg(feature = "trace")]
        crate::link::add(&tracing::Span::current(), &head.traceparent);
        let body = match request.method == Method::HEAD {
            true => StreamBody::text(Bytes::new()),
            false => StreamBody::reader(reader(head.clone())),
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        response.headers_mut().clone_from(&head.headers);
        announce(response.headers_mut(), &self.path, public);
        response.extensions_mut().insert(IsResumed);
        response
    }

    /// Tells the layers outside that the client can go on at another server.
    pub(crate) fn mark(&self, outer: &Exchange) {
        if self.log.is_shared() {
            outer.claim(Claim::Resumable);
        }
    }

    /// The response to a cursor that is refused.
    pub(crate) fn refuse(&self, request: &Parts, refused: Refused) -> Response<StreamBody> {
        let (status, detail) = match refused {
            Refused::Malformed => (StatusCode::BAD_REQUEST, "the cursor is malformed"),
            Refused::Foreign => (StatusCode::NOT_FOUND, "there is no such stream"),
        };
        self.problem(&request.method, status, detail)
    }

    pub(crate) fn gone(&self, request: &Parts) -> Response<StreamBody> {
        self.problem(
            &request.method,
            StatusCode::GONE,
            "the stream is no longer kept",
        )
    }

    pub(crate) fn unavailable(&self, method: &Method) -> Response<StreamBody> {
        let detail = "the log of the streams is unavailable";
        let mut response = self.problem(method, StatusCode::SERVICE_UNAVAILABLE, detail);
        let wait = retry_after(Duration::from_secs(2));
        response.headers_mut().insert(header::RETRY_AFTER, wait);
        response
    }

    pub(crate) fn problem(
        &self,
        method: &Method,
        status: StatusCode,
        detail: &str,
    ) -> Response<StreamBody> {
        self.count(|figures| &figures.refused);
        let mut response = Problem::new(status).detail(detail).into_response();
        answer_method(method, &mut response);
        private(StreamBody::respond(response))
    }

    /// An `EventSource` stops quietly at this status, and at no other (WHATWG HTML section 9.2.3).
    pub(crate) fn no_content(&self) -> Response<StreamBody> {
        let mut response = Response::new(StreamBody::text(Bytes::new()));
        *response.status_mut() = StatusCode::NO_CONTENT;
        private(response)
    }
}

pub(crate) fn private(mut response: Response<StreamBody>) -> Response<StreamBody> {
    let headers = response.headers_mut();
    let private = header::HeaderValue::from_static("no-store, private");
    headers.insert(header::CACHE_CONTROL, private);
    headers.append(
        header::VARY,
        header::HeaderValue::from_static("Last-Event-ID"),
    );
    response.extensions_mut().insert(IsResumed);
    response
}

/// The offset after which a reader reads, and whether it has records of an earlier epoch that the log has not. Such a reader goes on where
/// the epochs part, so that it gets the end, or the records of the next epoch.
fn resumed(forks: &[u64], head: &Head, at: Position) -> (u64, bool) {
    // Its readers have nothing that is not stored, so a plain number of records is a position in any epoch.
    let is_durable = head.durability == Durability::Stored;
    match forked_at(forks, at.epoch).filter(|fork| *fork <= at.offset) {
        Some(fork) if !is_durable => (fork - 1, true),
        _ => (at.offset, false),
    }
}
