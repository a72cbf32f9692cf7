//! The answer to a request that came too late.

use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, HeaderValue, Method, Response, StatusCode, Version, header};
use tower_stream_core::{Problem, RequestId, answer_method};

use crate::{
    close::Closing,
    settings::{Refusal, Settings},
};

/// The answer, and whether its body is to fail so that the stream is reset with REFUSED_STREAM instead.
pub(crate) fn answer(
    settings: &Settings,
    method: &Method,
    version: Version,
    request: &Extensions,
) -> (Response<Bytes>, bool) {
    let status = match settings.refusal {
        Refusal::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Unavailable | Refusal::RefusedStream => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = Problem::new(status)
        .detail("this server is shutting down; send the request again, it was not processed")
        .instance(RequestId::of(request))
        .into_response();
    come_back(&mut response, settings.retry_after());
    answer_method(method, &mut response);
    let closing = Closing::of(version);
    closing.close(false, &mut response);
    let reset = settings.refusal == Refusal::RefusedStream && closing == Closing::Never;
    if reset {
        response.extensions_mut().insert(RefusedStream);
    }
    (response, reset)
}

/// In the extensions of a response that `serve` resets without its head. Another server sends the head and then resets,
/// because the body fails: a client may see a 503 first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusedStream;

/// Tells the client when to send its request again, and every cache to forget this answer.
pub(crate) fn come_back(response: &mut Response<Bytes>, wait: Duration) {
    let seconds = wait.as_millis().div_ceil(1000) as u64;
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
