//! The service of every layer.

use std::{
    fmt,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{Layers, ResponseBody, ResponseFuture, driver::Driver, fused::Called};
use crate::{BoxError, Exchange};

/// A service with one or several layers. See the [module documentation](super).
///
/// `poll_ready` and the error type are those of the inner service.
#[derive(Clone)]
pub struct Wrapped<S, L> {
    inner: S,
    layers: L,
}

impl<S, L: Layers> Wrapped<S, L> {
    /// Wraps `inner` in these layers.
    pub fn new(inner: S, layers: L) -> Self {
        Self { inner, layers }
    }
}

impl<S, L, ReqBody, B> Service<Request<ReqBody>> for Wrapped<S, L>
where
    S: Service<Request<ReqBody>, Response = Response<B>>,
    S::Error: fmt::Display + 'static,
    L: Layers,
    ReqBody: 'static,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<B, L>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, B, L>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        if self.layers.are_off() {
            return ResponseFuture::off(Some(self.inner.call(request)));
        }
        let exchange = Exchange::of(request.extensions_mut());
        let mut driver = Driver::new(exchange, request.method().clone());
        let inner = &mut self.inner;
        let mut future = None;
        let called = driver.call(&self.layers, request, |request| {
            future = Some(inner.call(request));
        });
        match called {
            Called::Future if driver.is_idle() => ResponseFuture::off(future),
            Called::Future => ResponseFuture::on(future, driver),
            Called::Caught => ResponseFuture::on(None, driver),
            Called::Refused(response) => {
                driver.refuse(*response);
                ResponseFuture::on(None, driver)
            }
        }
    }
}

impl<S: fmt::Debug, L: fmt::Debug> fmt::Debug for Wrapped<S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapped")
            .field("inner", &self.inner)
            .field("layers", &self.layers)
            .finish()
    }
}
