//! The response to a refused request.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tower_stream_core::{Problem, Refused, RequestId, answer_method, grpc, retry_after};

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The limit for all is reached.
    Streams,
    /// The limit of the key is reached.
    Key,
    /// The key has sent too many requests.
    Rate,
    /// The circuit is open.
    Breaker,
}

impl Reason {
    pub(crate) const COUNT: usize = Self::Breaker as usize + 1;

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Key => "key",
            Self::Rate => "rate",
            Self::Breaker => "breaker",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::Streams | Self::Breaker => StatusCode::SERVICE_UNAVAILABLE,
            Self::Key | Self::Rate => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// UNAVAILABLE, or RESOURCE_EXHAUSTED: the client, not the server, is at its limit.
    const fn grpc_status(self) -> u8 {
        match self {
            Self::Streams | Self::Breaker => 14,
            Self::Key | Self::Rate => 8,
        }
    }

    const fn detail(self) -> &'static str {
        match self {
            Self::Streams => {
                "this server has as many streams as it takes; send the request again later, it was not processed"
            }
            Self::Key => {
                "this client has as many streams as it may have; send the request again when one has ended"
            }
            Self::Rate => {
                "this client has sent too many requests; send the request again later, it was not processed"
            }
            Self::Breaker => {
                "what answers this request has failed too often; send the request again later, it was not processed"
            }
        }
    }
}

/// What a refusal needs of its request.
#[derive(Debug)]
pub(crate) struct Asked {
    method: Method,
    grpc: Option<HeaderValue>,
    id: Option<RequestId>,
}

impl Asked {
    pub(crate) fn of<B>(request: &Request<B>, id: Option<&RequestId>) -> Self {
        Self {
            method: request.method().clone(),
            grpc: grpc::content_type(request.headers()).cloned(),
            id: id.cloned(),
        }
    }

    /// The response, in the format of the client. `wait`: the shortest time after which to retry. The time in the response
    /// is longer by up to `wait` or one second, at random, so that the clients do not all come back at once.
    pub(crate) fn refuse(&self, reason: Reason, wait: Duration) -> Response<Bytes> {
        let longest = wait.max(Duration::from_secs(1));
        let wait = wait.saturating_add(longest.mul_f64(fastrand::f64()));
        tracing::info!(
            reason = reason.as_str(),
            retry_after_s = wait.as_secs_f64(),
            "request refused"
        );
        let mut response = match &self.grpc {
            Some(kind) => grpc::trailers_only(kind.clone(), reason.grpc_status(), reason.detail()),
            None => Problem::new(reason.status())
                .detail(reason.detail())
                .instance(self.id.as_ref())
                .into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, retry_after(wait));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.grpc.is_some() {
            // What a gRPC client with a retry policy reads in place of `Retry-After` (proposal A6, "Pushback").
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert("grpc-retry-pushback-ms", HeaderValue::from(millis));
        }
        response.extensions_mut().insert(Refused);
        answer_method(&self.method, &mut response);
        response
    }
}
