//! `GET /events`: server-sent events.

use std::time::Duration;

use axum::{
    body::Body,
    extract::RawQuery,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use super::{MAX_RECORD, payload};
use crate::{problem::Problem, query::Query, records::Records};

/// `count` events (0: endless), `interval_ms` apart, each with `bytes` bytes of text.
pub(crate) async fn events(RawQuery(raw): RawQuery) -> Result<Response, Problem> {
    let mut query = Query::parse(raw.as_deref())?;
    let count = query.number("count", 10, 0..=u64::MAX)?;
    let interval = query.interval(100)?;
    let bytes = query.number("bytes", 32, 0..=MAX_RECORD)? as usize;
    query.finish()?;

    let count = (count > 0).then_some(count);
    Ok(stream(count, interval, move |n| {
        Bytes::from(format!("data: {}\n\n", payload(n, bytes)))
    }))
}

fn stream<F>(count: Option<u64>, interval: Duration, make: F) -> Response
where
    F: FnMut(u64) -> Bytes + Send + Unpin + 'static,
{
    (HEADERS, Body::new(Records::new(count, interval, make))).into_response()
}

/// What an event stream needs on its head: no cache may keep it and no proxy may hold it back
/// (nginx buffers SSE until the end unless told).
pub(crate) const HEADERS: [(HeaderName, &str); 3] = [
    (header::CONTENT_TYPE, "text/event-stream"),
    (header::CACHE_CONTROL, "no-cache"),
    (HeaderName::from_static("x-accel-buffering"), "no"),
];
