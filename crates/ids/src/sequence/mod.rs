//! Numbers on the chunks and records of a stream.

mod json;
mod sse;
mod stage;

use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

pub use self::stage::SequenceStage;

/// The form of the `id:` line of a server-sent event. A client that reconnects sends the last one as `Last-Event-ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventId {
    /// The number of the event: 1, 2, 3 .., or on from a [`FirstEvent`].
    Number,
    /// `<request_id>-<number>`, which identifies the stream too. The number alone when the request has no id.
    RequestAndNumber,
}

/// Numbers the chunks of every response body, and stamps the records of those bodies that have records.
///
/// * **Chunks**: each data frame draws the next number of the request's [`Sequence`](crate::Sequence), unless a layer
///   inside of this one numbers chunks already. Other layers read the number with
///   [`Sequence::last`](crate::Sequence::last).
/// * **Server-sent events**: each event without an `id:` line gets one, with the number of the event. The first event
///   that the client will see has number 1, and the numbers have no gaps, whatever else the request numbers. A block
///   without a `data` line (a comment, a `retry:` alone) is not an event. The line is written before the blank line
///   that ends the event.
/// * **JSON lines** and JSON text sequences, with [`SequenceLayer::json_lines`]: each object gets a first member
///   `sequence_id`, with a number drawn for it from the [`Sequence`](crate::Sequence). With one record per frame it is
///   the number of the chunk, so records and log lines of the request have one order. A record that is not an object
///   is not changed. An object that has a member `sequence_id` already then has two; most parsers take the last, which
///   is its own.
///
/// Nothing is buffered, split or joined: each frame is passed on at once, with its stamps. A frame without a stamp is
/// passed on unchanged. A response that is stamped loses its `Content-Length` and its digests, in the trailers too,
/// because they describe other bytes. A body that ends before its declared length fails
/// ([`FaultKind::ShortBody`](tower_stream_core::FaultKind::ShortBody)), as it would have for the client. Partial
/// responses (206), encoded ones, and those of every other content type are not stamped.
///
/// # `Last-Event-ID`
///
/// A client that reconnects sends the id of the last event that it has. Only the handler can know what that number
/// means, because only it can find its place again:
///
/// * By default the events of **each response** begin at 1. The numbers show a client's developer what is missing, but
///   a handler must not read them as a position: one that resumes after row 20 sends row 21 with `id: 1`.
/// * A handler that resumes puts [`FirstEvent`] into the response extensions: the number of its first event.
/// * With [`SequenceLayer::continue_last_event_id`] a numeric `Last-Event-ID` of the request is continued, for handlers
///   whose events are numbered 1, 2, 3 .. without gaps and that skip as many events as it says.
/// * An event with an `id:` line of the handler's own keeps it.
///
/// The layer works alone: without a [`RequestIdLayer`](crate::RequestIdLayer) outside it begins the sequence itself.
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
    /// For handlers that skip as many events as it says, see [`SequenceLayer`]. A [`FirstEvent`] of the response takes
    /// precedence. An id that is not a number below 2^63 is ignored, such as one of [`EventId::RequestAndNumber`].
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
