//! The service that [`RequestIdLayer`](crate::RequestIdLayer) makes.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use http::{HeaderName, Request, Response, request::Parts};
use pin_project_lite::pin_project;
use tower_service::Service;
use tower_stream_core::{Exchange, InvalidRequestId, RequestId, Scope, Scoped};

use crate::{RequestScope, layer::Config};

/// The body of a response under a [`RequestIdLayer`](crate::RequestIdLayer): the inner one, in the request's scope.
pub type ResponseBody<B> = Scoped<B, RequestScope>;

/// Gives every request an id and a sequence; see [`RequestIdLayer`](crate::RequestIdLayer).
#[derive(Clone)]
pub struct RequestIdService<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> RequestIdService<S> {
    pub(crate) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }
}

impl<S: fmt::Debug> fmt::Debug for RequestIdService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestIdService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequestIdService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        if !self.config.enabled {
            return ResponseFuture {
                inner: Scoped::new(self.inner.call(request), RequestScope::default()),
                header: None,
            };
        }
        let (mut head, body) = request.into_parts();
        let (mut scope, refused) = self.config.assign(&mut head);
        let entered = scope.enter();
        if let Some(refused) = refused {
            tracing::debug!(
                target: "tower_stream_ids",
                reason = %refused,
                "replaced the request id that a client sent"
            );
        }
        let future = self.inner.call(Request::from_parts(head, body));
        drop(entered);
        ResponseFuture {
            inner: Scoped::new(future, scope),
            header: Some(self.config.header.clone()),
        }
    }
}

impl Config {
    /// Settles the ids of a request and writes them into its head. Also: why an inbound id was replaced.
    fn assign(&self, head: &mut Parts) -> (RequestScope, Option<InvalidRequestId>) {
        let exchange = Exchange::of(&mut head.extensions);
        let known = exchange.request_id().cloned();
        let (request_id, refused) = match known {
            Some(id) => {
                head.headers
                    .insert(&self.header, id.as_header_value().clone());
                (id, None)
            }
            None => {
                let (request_id, refused) = self.request_id(head);
                exchange.set_request_id(request_id.clone());
                (request_id, refused)
            }
        };
        (RequestScope::new(request_id, exchange.sequence()), refused)
    }

    /// The inbound id, or a new one; it is the only one in the header afterwards.
    fn request_id(&self, head: &mut Parts) -> (RequestId, Option<InvalidRequestId>) {
        let mut refused = None;
        let mut inbound = head.headers.get_all(&self.header).iter();
        let mut taken = None;
        if self.trust.trusts(head) {
            for value in inbound.by_ref() {
                match RequestId::try_from(value.clone()) {
                    Ok(id) => {
                        taken = Some(id);
                        break;
                    }
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
        }
        if let Some(id) = taken {
            let alone = refused.is_none() && inbound.next().is_none();
            if !alone {
                head.headers
                    .insert(&self.header, id.as_header_value().clone());
            }
            return (id, None);
        }
        if refused.is_some() {
            self.replaced.fetch_add(1, Ordering::Relaxed);
        }
        let id = self.make.make_request_id(head);
        head.headers
            .insert(&self.header, id.as_header_value().clone());
        (id, refused)
    }
}

pin_project! {
    /// The response of a [`RequestIdService`].
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Scoped<F, RequestScope>,
        header: Option<HeaderName>,
    }
}

impl<F, ResBody, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
{
    type Output = Result<Response<ResponseBody<ResBody>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let mut response = ready!(this.inner.as_mut().poll(cx))?;
        let scope = this.inner.scope().clone();
        if let (Some(name), Some(id)) = (this.header.take(), scope.request_id()) {
            response
                .headers_mut()
                .insert(name, id.as_header_value().clone());
        }
        Poll::Ready(Ok(response.map(|body| Scoped::new(body, scope))))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
