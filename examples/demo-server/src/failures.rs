//! The `WriteError` of the demo: chooses the format of an error by path.

use axum::http::Response;
use bytes::Bytes;
use tower_stream_errors::{DefaultWriter, Failure, OpenAiWriter, Tail, WriteError};

/// Writes OpenAI's error format on the OpenAI-compatible routes, and the library's default format on all others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failures;

fn writer(failure: &Failure<'_>) -> &'static dyn WriteError {
    if failure.uri().path().starts_with("/v1/") {
        &OpenAiWriter
    } else {
        &DefaultWriter
    }
}

impl WriteError for Failures {
    fn head(&self, failure: &Failure<'_>) -> Response<Bytes> {
        writer(failure).head(failure)
    }

    fn tail(&self, failure: &Failure<'_>) -> Tail {
        writer(failure).tail(failure)
    }
}
