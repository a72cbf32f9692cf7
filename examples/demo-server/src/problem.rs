//! Errors of a request as problem details (RFC 9457).

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tower_stream_core as body;

use crate::reply;

/// A 4xx or 5xx response that says what is wrong, and with which parameter.
#[derive(Debug)]
pub(crate) struct Problem(body::Problem);

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(body::Problem::new(status).detail(detail))
    }

    /// 400 for the query parameter `name`.
    pub(crate) fn parameter(name: &str, detail: impl AsRef<str>) -> Self {
        let detail = format!("query parameter `{name}`: {}", detail.as_ref());
        let problem = body::Problem::new(StatusCode::BAD_REQUEST).detail(detail);
        Self(problem.with("parameter", name))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = self.0.to_json();
        reply::json_text("application/problem+json", self.0.status(), document)
    }
}
