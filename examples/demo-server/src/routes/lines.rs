//! `GET /lines`: NDJSON.

use axum::{
    body::Body,
    extract::RawQuery,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use super::{MAX_RECORD, payload};
use crate::{problem::Problem, query::Query, records::Records};

/// `count` objects (0: endless), one a line, `interval_ms` apart, each with `bytes` bytes of text.
pub(crate) async fn lines(RawQuery(raw): RawQuery) -> Result<Response, Problem> {
    let mut query = Query::parse(raw.as_deref())?;
    let count = query.number("count", 10, 0..=u64::MAX)?;
    let interval = query.interval(100)?;
    let bytes = query.number("bytes", 32, 0..=MAX_RECORD)? as usize;
    query.finish()?;

    let count = (count > 0).then_some(count);
    let body = Records::new(count, interval, move |n| {
        Bytes::from(format!("{}\n", payload(n, bytes)))
    });
    Ok((HEADERS, Body::new(body)).into_response())
}

/// What a stream of lines needs on its head; see `events::HEADERS`.
pub(crate) const HEADERS: [(HeaderName, &str); 3] = [
    (header::CONTENT_TYPE, "application/x-ndjson"),
    (header::CACHE_CONTROL, "no-cache"),
    (HeaderName::from_static("x-accel-buffering"), "no"),
];
