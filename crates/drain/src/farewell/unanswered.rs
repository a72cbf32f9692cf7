//! The response at the deadline for a handler that has not returned one.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};
use tower_stream_core::{PlainProblem, Problem, answer_method, grpc};

use super::message;
use crate::refusal;

/// A 503, or a Trailers-Only response to a call of gRPC with this content type.
pub(super) fn answer(
    method: &Method,
    grpc_type: Option<HeaderValue>,
    retry: std::time::Duration,
) -> Response<Bytes> {
    let mut response = match grpc_type {
        Some(content_type) => {
            grpc::trailers_only(content_type, message::UNAVAILABLE, message::MESSAGE)
        }
        None => {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE);
            let mut response = problem.detail(message::MESSAGE).into_response();
            refusal::come_back(&mut response, retry);
            response
        }
    };
    answer_method(method, &mut response);
    response.extensions_mut().insert(PlainProblem);
    response
}
