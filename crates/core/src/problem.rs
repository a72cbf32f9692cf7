//! Error documents.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Map, Value};

use crate::RequestId;

/// In the extensions of a response that a layer made because the handler will not answer: its [`Problem`] is the plainest
/// form there is. A layer outside that knows the format of the client, such as the error writer, says the recorded
/// [cause](crate::Exchange::cause) in that format instead.
#[derive(Clone, Copy, Debug)]
pub struct PlainProblem;

/// Takes the body off an answer to HEAD and declares the length that it would have had (RFC 9110 section 9.3.2).
///
/// hyper polls the body of an answer to HEAD over HTTP/2, and DATA frames there are a protocol error for the client.
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

/// The value of `Retry-After` for this time: whole seconds (RFC 9110 section 10.2.3), never fewer than it takes.
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

/// A problem document, `application/problem+json` (RFC 9457): what a layer answers when it has to answer itself.
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
    /// A problem of type `about:blank`, titled with the status's reason phrase.
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

    /// Names the type of problem: a URI reference, see RFC 9457 section 3.1.1.
    #[must_use]
    pub fn kind(self, kind: &str) -> Self {
        self.with("type", kind)
    }

    /// A short summary, the same for every occurrence of this type.
    #[must_use]
    pub fn title(self, title: &str) -> Self {
        self.with("title", title)
    }

    /// What went wrong this time, for the reader of the response.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        self.with("detail", detail.into())
    }

    /// Names this occurrence by the request's id, when there is one.
    #[must_use]
    pub fn instance(self, id: Option<&RequestId>) -> Self {
        match id {
            Some(id) => self.with("instance", id.as_str()),
            None => self,
        }
    }

    /// Adds an extension member (RFC 9457 section 3.2), or replaces a member of this name.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The document.
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
