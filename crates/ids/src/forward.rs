//! Sends the id of the current request on outgoing calls.

use std::task::{Context, Poll};

use http::{HeaderName, Request};
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_core::RequestId;

use crate::{RequestScope, layer::X_REQUEST_ID};

/// Adds the id of the current request to outgoing calls to other services.
///
/// The layer wraps any client that is a tower service over [`http::Request`], as those of hyper-util and tonic are;
/// other clients can be wrapped, see below. The id is that of the [`RequestScope`](crate::RequestScope) in which
/// `Service::call` runs, or otherwise one in the extensions of the outgoing request. A header that the caller set is
/// kept. Without an id, the request is sent unchanged.
///
/// A client that runs the call on another task (a `Buffer`, for example) loses the scope: put this layer outside of it.
///
/// ```
/// use http::{Request, Response};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_stream_ids::{ForwardRequestIdLayer, RequestScope, Sequence};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let client = ServiceBuilder::new()
///     .layer(ForwardRequestIdLayer::new())
///     .service(service_fn(|request: Request<()>| async move {
///         assert_eq!(request.headers()["x-request-id"], "a1");
///         Ok::<_, std::convert::Infallible>(Response::new(()))
///     }));
/// // in a handler under `RequestIdLayer`, this scope is already entered
/// let scope = RequestScope::new("a1".parse().unwrap(), Sequence::new());
/// tower_stream_core::Scoped::new(client.oneshot(Request::new(())), scope).await.unwrap();
/// # }
/// ```
///
/// A client with its own request type, such as reqwest's, is wrapped in a `service_fn`:
///
/// ```
/// use tower::{Layer, service_fn};
/// use tower_stream_ids::ForwardRequestIdLayer;
///
/// let client = reqwest::Client::new();
/// let send = service_fn(move |request: http::Request<reqwest::Body>| {
///     let client = client.clone();
///     async move { client.execute(request.try_into()?).await }
/// });
/// let client = ForwardRequestIdLayer::new().layer(send);
/// # fn is_one<S: tower_service::Service<http::Request<reqwest::Body>, Response = reqwest::Response, Error = reqwest::Error>>(_: S) {}
/// # is_one(client);
/// ```
#[derive(Clone, Debug)]
pub struct ForwardRequestIdLayer {
    header: Option<HeaderName>,
}

impl ForwardRequestIdLayer {
    /// Sends the id as `x-request-id`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            header: Some(X_REQUEST_ID),
        }
    }

    /// A disabled layer of the same type.
    #[must_use]
    pub fn off() -> Self {
        Self { header: None }
    }

    /// Sets the header to send the id in. Enables a layer that is off.
    #[must_use]
    pub fn header(mut self, name: HeaderName) -> Self {
        self.header = Some(name);
        self
    }
}

impl Default for ForwardRequestIdLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ForwardRequestIdLayer {
    type Service = ForwardRequestId<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ForwardRequestId {
            inner,
            header: self.header.clone(),
        }
    }
}

/// Sends the id of the current request; see [`ForwardRequestIdLayer`].
#[derive(Clone, Debug)]
pub struct ForwardRequestId<S> {
    inner: S,
    header: Option<HeaderName>,
}

impl<S, B> Service<Request<B>> for ForwardRequestId<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(name) = self
            .header
            .as_ref()
            .filter(|name| !request.headers().contains_key(*name))
        {
            let scope = RequestScope::current();
            let id = scope
                .request_id()
                .or_else(|| RequestId::of(request.extensions()));
            if let Some(id) = id.map(RequestId::as_header_value).cloned() {
                request.headers_mut().insert(name, id);
            }
        }
        self.inner.call(request)
    }
}
