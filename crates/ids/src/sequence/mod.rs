//! Numbers on the chunks and records of a stream.

mod body;
mod json;
mod sse;

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_core::{
    BoxError, Claim, Delivery, Exchange, RequestId, Sequence, StreamKind, bytes_changed,
};

pub use self::body::SequenceBody;
use self::{
    body::{Length, Stamp},
    json::JsonStamper,
    sse::SseStamper,
};

/// What the `id:` line of a server-sent event says. A client that reconnects sends the last one back as `Last-Event-ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventId {
    /// The number of the event: 1, 2, 3 .., or on from a [`FirstEvent`].
    Number,
    /// `<request_id>-<number>`, which names the stream too. Without a request id, the number alone.
    RequestAndNumber,
}

/// Numbers the chunks of every response body, and stamps the records of those that have records.
///
/// * Each data frame draws the next number of the request's [`Sequence`], unless a layer inside of this one numbers
///   chunks already. Other layers read it with [`Sequence::last`].
/// * **Server-sent events** get an `id:` line, each that has none, with the number of the event: 1 for the first that
///   a client will see, then 2, 3 .. without gaps, whatever else the request numbers. A block without a `data` line
///   (a comment, a `retry:` alone) is no event. The line goes before the blank line that ends the event.
/// * **JSON lines** and JSON text sequences, with [`SequenceLayer::json_lines`]: each object gets a first member
///   `sequence_id`, a number drawn for it from the [`Sequence`]; with one record a frame it is the number of the
///   chunk, and one order with the log lines of the request. What is no object is left alone. An object that has such
///   a member of its own then has two, of which most parsers take the last, its own.
///
/// Nothing is held back, split or joined: a frame goes out as soon as it came, with what belongs into it. Frames into
/// which nothing is written pass as they are. From a response that is stamped, `Content-Length` and the digests go,
/// those in trailers too, for they speak of other bytes; one that ends before its `Content-Length` fails, as it would
/// have for the client ([`FaultKind::ShortBody`](tower_stream_core::FaultKind::ShortBody)). A partial response (206), an
/// encoded one and every other content type pass.
///
/// # `Last-Event-ID`
///
/// A client that reconnects sends the id of the last event that it has. What that number means is up to the handler, for
/// only it can find its place again:
///
/// * By default the events of **each response** begin at 1. The numbers tell a client's developer what is missing, but a
///   handler must not read them as a position: one that resumes after row 20 sends row 21 with `id: 1`.
/// * A handler that resumes puts [`FirstEvent`] into the response extensions: the number of its first event.
/// * With [`SequenceLayer::continue_last_event_id`] a numeric `Last-Event-ID` of the request is continued, for handlers
///   whose events are numbered 1, 2, 3 .. without gaps and that skip as many as it says.
/// * An event with an `id:` of the handler's own keeps it.
///
/// Needs no other layer. Without a [`RequestIdLayer`](crate::RequestIdLayer) outside it begins a [`Sequence`] itself.
///
/// ```
/// use axum::{Router, body::Body, response::sse::{Event, Sse}, routing::get};
/// use futures_util::stream;
/// use http_body_util::BodyExt;
/// use tower::ServiceExt;
/// use tower_stream_ids::SequenceLayer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// async fn events() -> Sse<impl stream::Stream<Item = Result<Event, axum::Error>>> {
///     Sse::new(stream::iter(["a", "b"].map(|data| Ok(Event::default().data(data)))))
/// }
/// let app = Router::new().route("/", get(events)).layer(SequenceLayer::new());
/// let response = app.oneshot(http::Request::new(Body::empty())).await.unwrap();
/// let body = response.into_body().collect().await.unwrap().to_bytes();
/// assert_eq!(body, "data: a\nid: 1\n\ndata: b\nid: 2\n\n");
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SequenceLayer {
    config: Config,
}

#[derive(Clone, Copy, Debug)]
struct Config {
    enabled: bool,
    event_id: Option<EventId>,
    continues: bool,
    json_lines: bool,
}

/// In the response extensions: the number of the first server-sent event, for the [`SequenceLayer`].
///
/// For a handler that resumes a stream, so that the ids go on where the client left. Without it they begin at 1.
///
/// ```
/// use http::{HeaderMap, Response};
/// use tower_stream_ids::FirstEvent;
///
/// fn rows(headers: &HeaderMap) -> Response<String> {
///     let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
///     let first = last.unwrap_or(0_u64) + 1;
///     let mut response = Response::new(format!("data: row {first}\n\n"));
///     response.extensions_mut().insert(FirstEvent(first));
///     response
/// }
/// # assert!(rows(&HeaderMap::new()).body().starts_with("data: row 1"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstEvent(pub u64);

impl SequenceLayer {
    /// Numbers chunks and server-sent events.
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: Config {
                enabled: true,
                event_id: Some(EventId::Number),
                continues: false,
                json_lines: false,
            },
        }
    }

    /// A layer that does nothing, for a stack whose type must not change.
    #[must_use]
    pub fn off() -> Self {
        Self::new().enabled(false)
    }

    /// Whether the layer does anything.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.config.enabled = enabled;
        self
    }

    /// What the `id:` lines of server-sent events say; `None` to write none.
    #[must_use]
    pub fn event_id(mut self, event_id: impl Into<Option<EventId>>) -> Self {
        self.config.event_id = event_id.into();
        self
    }

    /// Whether the numbers of server-sent events go on from a numeric `Last-Event-ID` of the request. Default: false.
    ///
    /// For handlers that skip as many events as it says, see [`SequenceLayer`]. A [`FirstEvent`] of the response goes
    /// before it; an id that is no number below 2^63 counts as none, as that of [`EventId::RequestAndNumber`] is.
    #[must_use]
    pub fn continue_last_event_id(mut self, continues: bool) -> Self {
        self.config.continues = continues;
        self
    }

    /// Whether each object of a JSON lines stream gets a `sequence_id`.
    #[must_use]
    pub fn json_lines(mut self, stamp: bool) -> Self {
        self.config.json_lines = stamp;
        self
    }
}

impl Default for SequenceLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for SequenceLayer {
    type Service = SequenceService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SequenceService {
            inner,
            config: self.config,
        }
    }
}

/// Numbers chunks and records; see [`SequenceLayer`].
#[derive(Clone, Debug)]
pub struct SequenceService<S> {
    inner: S,
    config: Config,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for SequenceService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<SequenceBody<ResBody>>;
    type Error = S::Error;
    type Future = SequenceFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let work = self.config.enabled.then(|| {
            let last = (self.config.continues).then(|| last_event_id(request.headers()));
            let exchange = Exchange::of(request.extensions_mut());
            Box::new(Work {
                config: self.config,
                last: last.flatten().unwrap_or(0),
                sequence: exchange.sequence(),
                request_id: exchange.request_id().cloned(),
                exchange,
                method: request.method().clone(),
                stamp: Stamp::Nothing,
                draws: false,
                length: Length::default(),
            })
        });
        SequenceFuture {
            inner: self.inner.call(request),
            work,
        }
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

/// One response that is numbered. Boxed in the call, for the future and the body: where the layer is off, both are as
/// small as if it were not there.
#[derive(Debug)]
struct Work {
    config: Config,
    /// the number of the last event that the client has
    last: u64,
    exchange: Exchange,
    sequence: Sequence,
    request_id: Option<RequestId>,
    method: Method,
    stamp: Stamp,
    /// this layer numbers the chunks; otherwise one inside has done it
    draws: bool,
    length: Length,
}

impl Work {
    fn begin<B: Body<Data = Bytes>>(&mut self, response: &mut Response<B>) {
        self.stamp = self.stamp(response);
        if !matches!(self.stamp, Stamp::Nothing) {
            let (status, headers) = (response.status(), response.headers());
            let delivery = Delivery::new(&self.method, status, headers, response.body());
            self.length = Length::declared(delivery.declared_length().unwrap_or_default());
            bytes_changed(response.headers_mut());
        }
        self.exchange.join(response.extensions_mut());
        self.draws = self.exchange.claim(Claim::ChunkNumbers);
    }

    fn stamp<B: Body>(&self, response: &Response<B>) -> Stamp {
        // the answer to HEAD has the headers of the one to GET, though its body may be gone already
        let ended = response.body().is_end_stream() && self.method != Method::HEAD;
        if ended || response.status() == StatusCode::PARTIAL_CONTENT {
            return Stamp::Nothing;
        }
        match (StreamKind::of(response.headers()), self.config.event_id) {
            (StreamKind::Sse, Some(event_id)) => {
                let name = match event_id {
                    EventId::Number => None,
                    EventId::RequestAndNumber => self.request_id.clone(),
                };
                let first = response.extensions().get::<FirstEvent>();
                let before = first.map_or(self.last, |FirstEvent(first)| first.saturating_sub(1));
                Stamp::Sse(SseStamper::new(name, before))
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
}

pin_project! {
    /// The response of a [`SequenceService`].
    pub struct SequenceFuture<F> {
        #[pin]
        inner: F,
        work: Option<Box<Work>>,
    }
}

impl<F, ResBody, E> Future for SequenceFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Output = Result<Response<SequenceBody<ResBody>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let mut work = this.work.take();
        if let Some(work) = &mut work {
            work.begin(&mut response);
        }
        Poll::Ready(Ok(response.map(|body| SequenceBody::new(body, work))))
    }
}

impl<F> fmt::Debug for SequenceFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SequenceFuture")
            .field("work", &self.work)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
