//! Numbers the chunks and records of a stream.

mod json;
mod sse;
mod stage;

use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

pub use self::stage::SequenceStage;

/// The format of the `id:` line of a server-sent event. A client that reconnects sends the last one as `Last-Event-ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventId {
    /// The number of the event: 1, 2, 3 .., or counted from a [`FirstEvent`].
    Number,
    /// `<request_id>-<number>`, which also identifies the stream. Only the number if the request has no id.
    RequestAndNumber,
}

/// Numbers the chunks of every response body, and adds numbers to the records of bodies that have records.
///
/// * **Chunks**: each data frame takes the next number of the request's [`Sequence`](crate::Sequence), unless a layer
///   inside of this one already numbers chunks. Other layers read the number with
///   [`Sequence::last`](crate::Sequence::last).
/// * **Server-sent events**: each event without an `id:` line gets one, with the number of the event. The first event
///   of the response has number 1, and the numbers have no gaps, because chunks and log lines do not count here. A
///   block without a `data` line (a comment, or only `retry:`) is not an event. The line is inserted before the blank
///   line that ends the event.
/// * **JSON lines** and JSON text sequences, with [`SequenceLayer::json_lines`]: each object gets a first member
///   `sequence_id`, with the next number of the [`Sequence`](crate::Sequence). If each frame has one record, this is
///   the number of the chunk, so records and log lines of the request have one order. A record that is not an object is
///   not changed. An object that already has a member `sequence_id` then has two; most parsers keep the last one, which
///   is its own.
///
/// A stream that a resume layer has made resumable, outside or inside of this one, gets no `id:` here: its ids are the cursors of that layer.
///
/// The layer does not buffer, split or join frames: each frame is passed on at once, with the inserted numbers. A frame
/// without an insertion is passed on unchanged. A response with insertions loses its `Content-Length` and its digests,
/// also in the trailers, because they describe other bytes. A body that ends before its declared length fails
/// ([`FaultKind::ShortBody`](tower_stream_core::FaultKind::ShortBody)), as it would without this layer. Partial
/// responses (206), encoded ones, and those of every other content type are not changed.
///
/// # `Last-Event-ID`
///
/// A client that reconnects sends the id of the last event that it received. Only the handler can know what that number
/// means, because only the handler can find the position in its data again:
///
/// * By default, the events of **each response** start at 1. The numbers show where events are missing, but a handler
///   must not use them as a position: if it resumes after row 20, row 21 has `id: 1`.
/// * A handler that resumes inserts [`FirstEvent`], the number of its first event, into the response extensions.
/// * With [`SequenceLayer::continue_last_event_id`] the layer continues from a numeric `Last-Event-ID` of the request.
///   Use this for handlers whose events are numbered 1, 2, 3 .. without gaps and that skip as many events as the header
///   says.
/// * An event with an `id:` line from the handler keeps it.
///
/// The layer also works without a [`RequestIdLayer`](crate::RequestIdLayer) outside: it then creates the sequence
/// itself.
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
/// For a handler that resumes a stream, so that the ids continue where the client left off. Without it they start at 1.
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

    /// A disabled layer of the same type.
    #[must_use]
    pub fn off() -> Self {
        Self::new().enabled(false)
    }

    /// Enables or disables the layer.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.config.enabled = enabled;
        self
    }

    /// Sets the format of the `id:` lines of server-sent events; `None` writes none.
    #[must_use]
    pub fn event_id(mut self, event_id: impl Into<Option<EventId>>) -> Self {
        self.config.event_id = event_id.into();
        self
    }

    /// Sets whether the numbers of server-sent events continue from a numeric `Last-Event-ID` of the request. Default:
    /// false.
    ///
    /// Use this for handlers that skip as many events as the header says, see [`SequenceLayer`]. A [`FirstEvent`] in
    /// the response takes precedence. An id that is not a number below 2^63, such as one of
    /// [`EventId::RequestAndNumber`], is ignored.
    #[must_use]
    pub fn continue_last_event_id(mut self, continues: bool) -> Self {
        self.config.continues = continues;
        self
    }

    /// Sets whether each object of a JSON lines stream gets a `sequence_id`.
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
