//! Numbers on the chunks and records of a stream.

mod json;
mod sse;
mod stage;

use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

pub use self::stage::SequenceStage;

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
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, *self)
    }
}

#[cfg(test)]
mod tests;
