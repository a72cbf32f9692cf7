//! Answers: whole JSON, and streams of records.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Serialize;

/// `value` as `application/json`.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    json_text("application/json", status, text(value))
}

/// JSON text under a JSON media type.
///
/// The length is set here, not left to axum, because a layer that hides `size_hint` would lose it.
pub(crate) fn json_text(
    media_type: &'static str,
    status: StatusCode,
    text: impl Into<Bytes>,
) -> Response {
    let text = text.into();
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CONTENT_LENGTH, length);
    response
}

/// Server-sent events.
pub(crate) const EVENTS: &str = "text/event-stream";
/// One JSON object a line.
pub(crate) const LINES: &str = "application/x-ndjson";

/// A stream of records. What keeps caches and proxies from holding it back is the header guard's.
pub(crate) fn stream(media_type: &'static str, body: Body) -> Response {
    ([(header::CONTENT_TYPE, media_type)], body).into_response()
}

/// `value` as JSON text.
///
/// # Panics
///
/// When a `Serialize` of ours fails, or has a map whose keys are no strings: none does.
pub(crate) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structs serialize")
}
