//! Responses: JSON documents and streams of records.

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

/// JSON text with a JSON media type.
///
/// The length is set here instead of by axum, because a layer that hides `size_hint` would lose it.
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
/// One JSON object per line.
pub(crate) const LINES: &str = "application/x-ndjson";

/// A stream of records. `StreamHeadersLayer` adds the headers that keep caches and proxies from buffering it.
pub(crate) fn stream(media_type: &'static str, body: Body) -> Response {
    ([(header::CONTENT_TYPE, media_type)], body).into_response()
}

/// `value` as JSON text.
///
/// # Panics
///
/// Panics if a `Serialize` implementation of this crate fails, or has a map whose keys are not strings. None does.
pub(crate) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structs serialize")
}
