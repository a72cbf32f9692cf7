//! How clients are told of a failure: a `WriteError` that chooses by path.

use axum::http::Response;
use bytes::Bytes;
use tower_stream_errors::{DefaultWriter, Failure, OpenAiWriter, Tail, WriteError};

/// The OpenAI-compatible routes speak as their clients expect, all others as the library does.
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
