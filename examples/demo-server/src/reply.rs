//! Whole (not streamed) JSON answers.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
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

/// `value` as JSON text.
///
/// # Panics
///
/// When a `Serialize` of ours fails, or has a map whose keys are no strings: none does.
pub(crate) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structs serialize")
}
