//! The answer to a request that came too late.

use bytes::Bytes;
use http::{Extensions, HeaderValue, Response, StatusCode, Version, header};
use tower_stream_body::{Problem, RequestId};

use crate::{
    close::Closing,
    settings::{Refusal, Settings},
};

/// The answer, and whether its body is to fail so that the stream is reset with REFUSED_STREAM instead.
pub(crate) fn answer(
    settings: &Settings,
    version: Version,
    request: &Extensions,
) -> (Response<Bytes>, bool) {
    let status = match settings.refusal {
        Refusal::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Unavailable | Refusal::RefusedStream => StatusCode::SERVICE_UNAVAILABLE,
    };
    let seconds = settings.retry_after().as_millis().div_ceil(1000) as u64;
    let mut response = Problem::new(status)
        .detail("this server is shutting down; send the request again, it was not processed")
        .instance(request.get::<RequestId>())
        .into_response();
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let closing = Closing::of(version);
    closing.close(false, &mut response);
    let reset = settings.refusal == Refusal::RefusedStream && closing == Closing::Never;
    (response, reset)
}
