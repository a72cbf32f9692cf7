//! Errors of a request, as RFC 9457 problem details.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::reply;

/// A 4xx answer that says what was wrong, and with which parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    parameter: Option<String>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            parameter: None,
        }
    }

    /// 400 for the query parameter `name`.
    pub(crate) fn parameter(name: &str, detail: impl AsRef<str>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            detail: format!("query parameter `{name}`: {}", detail.as_ref()),
            parameter: Some(name.to_owned()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(parameter) = self.parameter {
            body["parameter"] = parameter.into();
        }
        reply::json_as("application/problem+json", self.status, &body)
    }
}
