//! Responses of our own.

use bytes::Bytes;
use http::{Response, StatusCode};
use tower_stream_core::{Problem, RequestId, head_replaced};

use crate::fields::BadPromise;

/// What a client is told of a digest.
pub(crate) fn problem(
    status: StatusCode,
    title: &str,
    detail: &str,
    id: Option<&RequestId>,
) -> Response<Bytes> {
    Problem::new(status)
        .title(title)
        .detail(detail)
        .instance(id)
        .into_response()
}

/// What a client is told of a promise that cannot be read.
pub(crate) fn bad_promise(
    status: StatusCode,
    bad: BadPromise,
    id: Option<&RequestId>,
) -> Response<Bytes> {
    problem(
        status,
        "InvalidDigest",
        &format!("The digest promised for the body is {}.", bad.as_str()),
        id,
    )
}

/// Puts an answer in the place of a head that was ready, of which only `Connection`, `Vary` and the CORS headers are still
/// true.
pub(crate) fn instead_of(head: &mut http::response::Parts, answer: Response<Bytes>) -> Bytes {
    let (mut parts, document) = answer.into_parts();
    head_replaced(&head.headers, &mut parts.headers);
    head.status = parts.status;
    head.headers = parts.headers;
    document
}
