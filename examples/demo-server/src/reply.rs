//! Whole (not streamed) JSON answers.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};

/// `value` as `application/json`.
pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Response {
    json_as("application/json", status, value)
}

/// `value` under another JSON media type.
///
/// The length is set here, not left to axum, because a layer that hides `size_hint` would lose it.
pub(crate) fn json_as(
    media_type: &'static str,
    status: StatusCode,
    value: &serde_json::Value,
) -> Response {
    let text = value.to_string();
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CONTENT_LENGTH, length);
    response
}
