//! The response to a refused request.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tower_stream_core::{Problem, RequestId, answer_method, retry_after};

use crate::{
    close::Closing,
    settings::{Refusal, Settings},
};

/// Returns the response, and whether its body must fail so that the stream is reset with REFUSED_STREAM instead.
pub(crate) fn answer(
    settings: &Settings,
    method: &Method,
    version: Version,
    id: Option<&RequestId>,
) -> (Response<Bytes>, bool) {
    let status = match settings.refusal {
        Refusal::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Unavailable | Refusal::RefusedStream => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = Problem::new(status)
        .detail("this server is shutting down; send the request again, it was not processed")
        .instance(id)
        .into_response();
    come_back(&mut response, settings.retry_after());
    answer_method(method, &mut response);
    let closing = Closing::of(version);
    let (mut head, text) = response.into_parts();
    closing.close(false, &mut head);
    let mut response = Response::from_parts(head, text);
    let reset = settings.refusal == Refusal::RefusedStream && closing == Closing::Never;
    if reset {
        response.extensions_mut().insert(RefusedStream);
    }
    (response, reset)
}

/// In the extensions of a response whose stream a server should reset with REFUSED_STREAM instead of sending its head.
/// A server that does not know this type sends the head and then resets the stream, because the body fails: the client
/// may see a 503 first.
#[derive(Clone, Copy, Debug)]
pub struct RefusedStream;

/// In the extensions of a response of the drain to a client that is still sending. If the connection is closed with
/// unread bytes, TCP resets it, and the client may lose the response: the server should keep reading for a while.
#[derive(Clone, Copy, Debug)]
pub struct UnreadUpload;

/// Returns whether the head of a request announces a body. A body without a length over HTTP/2 is not detected, which
/// does no harm: the server reads an HTTP/2 connection in any case.
pub(crate) fn announces_upload<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH);
    !matches!(*request.method(), Method::GET | Method::HEAD)
        && (length.is_some_and(|length| length != "0")
            || headers.contains_key(header::TRANSFER_ENCODING))
}

/// Tells the client when to retry, and caches not to store this response.
pub(crate) fn come_back(response: &mut Response<Bytes>, wait: Duration) {
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, retry_after(wait));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
