//! The handler of all candidates: server-sent events, at once or paced.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
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
    bytes: usize,
    #[serde(default)]
    interval_ms: u64,
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

/// The same event a number of times.
struct Events {
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
        Poll::Ready(Some(Ok(Frame::data(self.event.clone()))))
    }
}
