//! The handler of all candidates: server-sent events, at once or paced.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    extract::Query,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::Response,
};
use bytes::Bytes;
use http_body::Frame;
use serde::Deserialize;
use tokio::time::{Interval, interval};

/// The query.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Ask {
    count: usize,
    #[serde(default)]
    bytes: usize,
    #[serde(default)]
    interval_ms: u64,
    /// Chunks of a chat completion that say when they were made, in place of `bytes`
    #[serde(default)]
    chat: bool,
}

pub(crate) async fn events(ask: Query<Ask>) -> Response {
    ending(ask, "").await
}

/// The events, and then this one.
pub(crate) async fn ending(Query(ask): Query<Ask>, last: &'static str) -> Response {
    let mut response = Response::new(Body::new(Events::new(ask, last)));
    let content_type = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The same event a number of times, or chunks of a chat completion.
struct Events {
    chat: bool,
    event: Bytes,
    left: usize,
    last: Bytes,
    /// Boxed, so that a stream without an interval is small.
    interval: Option<Box<Interval>>,
}

impl Events {
    fn new(ask: Ask, last: &'static str) -> Self {
        let data = ask.bytes.saturating_sub("data: {}\n\n".len());
        let every = Duration::from_millis(ask.interval_ms);
        Self {
            event: format!("data: {{{}}}\n\n", "x".repeat(data)).into(),
            left: ask.count,
            last: Bytes::from_static(last.as_bytes()),
            chat: ask.chat,
            interval: (!every.is_zero()).then(|| Box::new(interval(every))),
        }
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            let last = std::mem::take(&mut self.last);
            return Poll::Ready((!last.is_empty()).then(|| Ok(Frame::data(last))));
        }
        if let Some(interval) = &mut self.interval {
            ready!(interval.poll_tick(cx));
        }
        self.left -= 1;
        let event = match self.chat {
            true => chunk(self.left),
            false => self.event.clone(),
        };
        Poll::Ready(Some(Ok(Frame::data(event))))
    }
}

/// One token of a chat completion, and the nanoseconds since 1970 at which it was made. The Go server writes the same.
fn chunk(left: usize) -> Bytes {
    let word = WORDS[left * 7 % WORDS.len()];
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_nanos();
    format!(
        "data: {{\"id\":\"chatcmpl-9zK3pQ2mXv7Lr4\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
         \"model\":\"demo-1\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" {word}\"}},\"finish_reason\":null}}],\
         \"at\":{now}}}\n\n"
    )
    .into()
}

const WORDS: [&str; 31] = [
    "the", "rabbit", "hole", "went", "straight", "on", "like", "a", "tunnel", "for", "some", "way",
    "and", "then", "dipped", "suddenly", "down", "so", "that", "Alice", "had", "not", "moment",
    "to", "think", "about", "stopping", "herself", "before", "she", "found",
];
