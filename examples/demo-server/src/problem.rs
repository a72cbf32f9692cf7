//! Errors of a request, as RFC 9457 problem details.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::reply;

/// A 4xx or 5xx answer that says what was wrong, and with which parameter.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    parameter: Option<String>,
}

#[derive(Serialize)]
struct Details<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
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
        let details = Details {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            parameter: self.parameter.as_deref(),
        };
        let text = reply::text(&details);
        reply::json_text("application/problem+json", self.status, text)
    }
}
