//! Error responses of the verifying layers.

use bytes::Bytes;
use http::{Response, StatusCode};
use tower_stream_core::{Problem, RequestId, head_replaced};

use crate::fields::BadPromise;

/// A problem document about a digest.
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

/// The response to a message whose declared digest cannot be used.
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

/// Replaces a response head with `answer`. Keeps only `Connection`, `Vary` and the CORS headers, which still apply.
pub(crate) fn instead_of(head: &mut http::response::Parts, answer: Response<Bytes>) -> Bytes {
    let (mut parts, document) = answer.into_parts();
    head_replaced(&head.headers, &mut parts.headers);
    head.status = parts.status;
    head.headers = parts.headers;
    document
}
