//! The answer in place of a handler that has none when the deadline comes.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use tower_stream_core::{PlainProblem, Problem, answer_method, grpc};

use super::words;
use crate::refusal;

/// A 503, or a Trailers-Only response to a call of gRPC with this content type.
pub(super) fn answer(
    method: &Method,
    grpc_type: Option<HeaderValue>,
    retry: std::time::Duration,
) -> Response<Bytes> {
    let mut response = match grpc_type {
        Some(content_type) => {
            let mut response = Response::new(Bytes::new());
            *response.headers_mut() = grpc::trailers(words::UNAVAILABLE, words::MESSAGE);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, content_type);
            response
        }
        None => {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE);
            let mut response = problem.detail(words::MESSAGE).into_response();
            refusal::come_back(&mut response, retry);
            response
        }
    };
    answer_method(method, &mut response);
    response.extensions_mut().insert(PlainProblem);
    response
}
