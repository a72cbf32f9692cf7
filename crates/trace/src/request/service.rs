use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;
use tower_stream_core::{BoxError, Fault, Observation, Scoped};
use tracing::Span;

use super::{
    ResponseBody,
    layer::Config,
    observer::RequestObserver,
    span::{self, InSpan},
};
use crate::parent::{self, Activated};

/// The service of [`RequestSpanLayer`](super::RequestSpanLayer).
#[derive(Clone, Debug)]
pub struct RequestSpan<S> {
    inner: S,
    config: Option<Arc<Config>>,
}

impl<S> RequestSpan<S> {
    pub(super) fn new(inner: S, config: Option<Arc<Config>>) -> Self {
        Self { inner, config }
    }
}

/// A request that has its span already, by a layer outside.
#[derive(Clone, Copy)]
struct HasRequestSpan;

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequestSpan<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: fmt::Display + 'static,
    ResBody: Body<Data = Bytes>,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let config = self.config.as_deref();
        let config = config.filter(|_| request.extensions().get::<HasRequestSpan>().is_none());
        let Some(span) = config.and_then(|config| span::open(config, &request)) else {
            return ResponseFuture {
                spanned: None,
                inner: Some(self.inner.call(request)),
            };
        };
        request.extensions_mut().insert(HasRequestSpan);
        let fault = Fault::of(request.extensions_mut());
        let span = Arc::new(span);
        let observer = Box::new(RequestObserver::new(Arc::clone(&span)));
        let mut observation = Observation::new(observer, fault);
        let method = request.method().clone();
        let outside = parent::activated();
        let entered = span.enter();
        if parent::activated() != outside {
            request.extensions_mut().insert(Activated);
        }
        let inner = observation.run(|| self.inner.call(request));
        drop(entered);
        ResponseFuture {
            spanned: Some(Spanned {
                observation,
                span,
                method,
            }),
            inner: Some(inner),
        }
    }
}

pin_project! {
    /// The future of [`RequestSpan`].
    ///
    /// In its span, the future inside is dropped as soon as it is ready, while the span is entered for the poll: to enter
    /// it once more for the drop alone would cost as much again.
    pub struct ResponseFuture<F> {
        spanned: Option<Spanned>,
        // `None` once it is ready, and was in its span
        #[pin]
        inner: Option<F>,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(Spanned { observation, span, .. }) = this.spanned.take() {
                // before the future inside: observers report from the outside in
                drop(observation);
                let _entered = span.enter();
                this.inner.set(None);
            }
        }
    }
}

/// A request that has a span, until its head is there.
struct Spanned {
    observation: Observation<Box<RequestObserver>>,
    span: Arc<Span>,
    method: Method,
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: fmt::Display + 'static,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let Some(spanned) = this.spanned else {
            let response = ready!(inner.poll(cx))?;
            return Poll::Ready(Ok(response.map(ResponseBody::off)));
        };
        let entered = spanned.span.enter();
        let result = ready!(spanned.observation.run(|| inner.poll(cx)));
        spanned.observation.run(|| this.inner.set(None));
        drop(entered);
        let Some(Spanned {
            mut observation,
            span,
            method,
        }) = this.spanned.take()
        else {
            return Poll::Pending;
        };
        Poll::Ready(match result {
            Ok(response) => {
                observation.observer_mut().head(response.status());
                let response = observation.into_response(&method, response);
                Ok(response.map(|body| ResponseBody::on(Scoped::new(body, InSpan(span)))))
            }
            Err(error) => {
                observation.fail_service(&error);
                Err(error)
            }
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("spanned", &self.spanned.is_some())
            .finish_non_exhaustive()
    }
}
