//! Services for probes.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use tower_service::Service;
use tower_stream_core::answer_method;

use crate::{State, shared::Shared};

/// Responds to a probe with the state of a drain: from [`Drain::readiness`](crate::Drain::readiness) and
/// [`Drain::liveness`](crate::Drain::liveness).
///
/// The response is a JSON object with the state, `{"state":"active"}`, which caches must not store.
///
/// ```
/// use axum::Router;
/// use tower_stream_drain::Drain;
///
/// let drain = Drain::builder().build();
/// let admin: Router = Router::new()
///     .route_service("/readyz", drain.readiness())
///     .route_service("/livez", drain.liveness());
/// ```
#[derive(Clone)]
pub struct Probe {
    shared: Arc<Shared>,
    ready: bool,
}

impl Probe {
    pub(crate) fn readiness(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            ready: true,
        }
    }

    pub(crate) fn liveness(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            ready: false,
        }
    }

    fn answer(&self, method: &Method) -> Response<ProbeBody> {
        let state = self.shared.state();
        let text = Bytes::from(format!("{{\"state\":\"{state}\"}}"));
        let mut response = Response::new(text);
        if self.ready && state != State::Active {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer_method(method, &mut response);
        response.map(|text| ProbeBody((!text.is_empty()).then_some(text)))
    }
}

impl<B> Service<Request<B>> for Probe {
    type Response = Response<ProbeBody>;
    type Error = Infallible;
    type Future = Ready<Result<Response<ProbeBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.answer(request.method())))
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("drain", &self.shared)
            .finish_non_exhaustive()
    }
}

/// The response body of a [`Probe`].
#[derive(Debug)]
pub struct ProbeBody(Option<Bytes>);

impl Body for ProbeBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(Frame::data).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |text| text.len() as u64))
    }
}
