//! Error documents.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Map, Value};

use crate::RequestId;

/// In the extensions of a response that a layer sends instead of the handler. Its [`Problem`] is a generic format: a
/// layer outside that knows the client's format, such as the error writer, replaces it and writes the recorded
/// [cause](crate::Exchange::cause) in that format.
#[derive(Clone, Copy, Debug)]
pub struct PlainProblem;

/// In the extensions of a response with which a layer refuses a request that the handler has not seen: a drain, a limit, a
/// circuit breaker. It says nothing about the health of the handler.
#[derive(Clone, Copy, Debug)]
pub struct Refused;

/// Removes the body from a response to HEAD and declares the length that it would have had (RFC 9110 section 9.3.2).
///
/// Over HTTP/2, hyper polls the body of a response to HEAD, and DATA frames there are a protocol error for the client.
pub fn answer_method(method: &Method, response: &mut Response<Bytes>) {
    if *method != Method::HEAD {
        return;
    }
    let length = std::mem::take(response.body_mut()).len();
    if length > 0 {
        let length = HeaderValue::from(length);
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
    }
}

/// The value of `Retry-After` for this time: whole seconds (RFC 9110 section 10.2.3), rounded up.
///
/// ```
/// use std::time::Duration;
/// use tower_stream_core::retry_after;
///
/// assert_eq!(retry_after(Duration::from_micros(1_000_001)), "2");
/// assert_eq!(retry_after(Duration::ZERO), "0");
/// ```
#[must_use]
pub fn retry_after(wait: Duration) -> HeaderValue {
    let begun = u64::from(wait.subsec_nanos() > 0);
    HeaderValue::from(wait.as_secs().saturating_add(begun))
}

/// A problem document, `application/problem+json` (RFC 9457): the body of a response that a layer sends itself.
///
/// ```
/// use http::StatusCode;
/// use tower_stream_core::Problem;
///
/// let response = Problem::new(StatusCode::SERVICE_UNAVAILABLE)
///     .detail("this server is going away")
///     .with("retry_after", 3)
///     .into_response();
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// assert_eq!(
///     response.body(),
///     r#"{"detail":"this server is going away","retry_after":3,"status":503,"title":"Service Unavailable","type":"about:blank"}"#
/// );
/// ```
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    members: Map<String, Value>,
}

impl Problem {
    /// A problem of type `about:blank`, with the reason phrase of the status as title.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        let problem = Self {
            status,
            members: Map::new(),
        };
        problem
            .with("type", "about:blank")
            .with("title", status.canonical_reason().unwrap_or("Error"))
            .with("status", status.as_u16())
    }

    /// Sets the type of problem: a URI reference, see RFC 9457 section 3.1.1.
    #[must_use]
    pub fn kind(self, kind: &str) -> Self {
        self.with("type", kind)
    }

    /// Sets a short summary, the same for every occurrence of this type.
    #[must_use]
    pub fn title(self, title: &str) -> Self {
        self.with("title", title)
    }

    /// Sets what went wrong in this occurrence, for the reader of the response.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        self.with("detail", detail.into())
    }

    /// Identifies this occurrence by the id of the request, if there is one.
    #[must_use]
    pub fn instance(self, id: Option<&RequestId>) -> Self {
        match id {
            Some(id) => self.with("instance", id.as_str()),
            None => self,
        }
    }

    /// Adds or replaces an extension member (RFC 9457 section 3.2).
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The JSON document.
    #[must_use]
    pub fn to_json(&self) -> Bytes {
        Value::Object(self.members.clone()).to_string().into()
    }

    /// A response with the status and the document.
    #[must_use]
    pub fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(self.to_json());
        *response.status_mut() = self.status;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        response
    }
}
