use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;
use tower_stream_core::{BoxError, Fault, Observation};

use crate::{ResponseBody, ResponseFuture, layer::Shared, stream::Stream};

/// The service of [`StreamMetricsLayer`](crate::StreamMetricsLayer).
#[derive(Clone, Debug)]
pub struct StreamMetrics<S> {
    pub(crate) inner: S,
    pub(crate) shared: Option<Arc<Shared>>,
}

/// In the extensions of a request that is measured already.
#[derive(Clone, Copy)]
struct Measured;

impl<S, B, ResB> Service<Request<B>> for StreamMetrics<S>
where
    S: Service<Request<B>, Response = Response<ResB>>,
    S::Error: fmt::Display + 'static,
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(shared) = &self.shared else {
            return ResponseFuture::unmeasured(self.inner.call(request));
        };
        if request.extensions_mut().insert(Measured).is_some() {
            return ResponseFuture::unmeasured(self.inner.call(request));
        }
        let method = request.method().clone();
        let route = shared.route(request.uri(), request.extensions());
        let fault = Fault::of(request.extensions_mut());
        let mut observation = Observation::new(Box::new(Stream::begin(route, &method)), fault);
        // a panic in `call` itself, before there is a future, is a panic of the handler too
        let future = observation.run(|| self.inner.call(request));
        ResponseFuture::measured(future, observation, method)
    }
}
