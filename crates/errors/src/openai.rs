//! The form that clients of OpenAI-compatible servers understand.

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};
use tower_stream_core::StreamKind;

use crate::{DefaultWriter, Failure, Tail, WriteError};

/// A writer for OpenAI-compatible endpoints.
///
/// In a stream of server-sent events it writes `data: {"error":{"message":..,"type":..,"param":null,"code":..}}`,
/// without an `event:` line and without `[DONE]`: the official SDKs raise their error type on it and never take the
/// stream for a whole one. Before the head the same object is the JSON answer, under the status of the failure. Other
/// kinds and gRPC clients get what [`DefaultWriter`] gives.
///
/// ```
/// use tower_stream_errors::{ErrorWriterLayer, OpenAiWriter};
///
/// let layer = ErrorWriterLayer::new().writer(OpenAiWriter);
/// # let _ = layer;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenAiWriter;

impl WriteError for OpenAiWriter {
    fn head(&self, failure: &Failure<'_>) -> Response<Bytes> {
        if failure.is_grpc() {
            return DefaultWriter.head(failure);
        }
        let mut response = Response::new(Bytes::from(object(failure).to_string()));
        *response.status_mut() = failure.status();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }

    fn tail(&self, failure: &Failure<'_>) -> Tail {
        match failure.stream() {
            StreamKind::Sse => Tail::Data(format!("data: {}\n\n", object(failure)).into()),
            _ => DefaultWriter.tail(failure),
        }
    }
}

fn object(failure: &Failure<'_>) -> Value {
    let mut error = json!({
        "message": failure.message(),
        "type": "server_error",
        "param": null,
        "code": failure.kind().as_str(),
    });
    if let Some(id) = failure.request_id() {
        error["request_id"] = id.as_str().into();
    }
    json!({ "error": error })
}
