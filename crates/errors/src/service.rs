use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;
use tower_stream_core::BoxError;

use crate::{ResponseBody, ResponseFuture, case::Case, layer::Config, panic::catch};

/// The service made by [`ErrorWriterLayer`](crate::ErrorWriterLayer).
///
/// `poll_ready` is passed through: a panic there has no request that it could be told to. So is an `Err` of the inner
/// service, which is no response yet: turn it into one inside (axum's `HandleErrorLayer`).
#[derive(Clone, Debug)]
pub struct ErrorWriter<S> {
    inner: S,
    config: Option<Arc<Config>>,
}

impl<S> ErrorWriter<S> {
    pub(crate) fn new(inner: S, config: Option<Arc<Config>>) -> Self {
        Self { inner, config }
    }
}

impl<S, ReqBody, B> Service<Request<ReqBody>> for ErrorWriter<S>
where
    S: Service<Request<ReqBody>, Response = Response<B>>,
    ReqBody: 'static,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let Some(config) = &self.config else {
            return ResponseFuture::off(self.inner.call(request));
        };
        #[cfg(feature = "axum")]
        tower_stream_core::mark_upload(request.body_mut());
        let case = Case::new(Arc::clone(config), &mut request);
        match catch(|| self.inner.call(request)) {
            Ok(future) => ResponseFuture::new(future, case),
            Err(payload) => {
                case.panicked(payload);
                ResponseFuture::failed(case)
            }
        }
    }
}
