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
use tower_stream_body::{BoxError, Fault, Observation, Scoped};

use super::{
    ResponseBody,
    layer::Config,
    observer::RequestObserver,
    span::{self, InSpan},
};

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

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let config = self.config.as_deref();
        let config = config.filter(|_| request.extensions().get::<HasRequestSpan>().is_none());
        let kind = match config.and_then(|config| span::open(config, &request)) {
            Some(span) => {
                request.extensions_mut().insert(HasRequestSpan);
                let fault = Fault::of(request.extensions_mut());
                let mut observation = Observation::new(RequestObserver::new(span.clone()), fault);
                let method = request.method().clone();
                let entered = span.enter();
                let inner = observation.run(|| self.inner.call(request));
                drop(entered);
                Kind::Spanned {
                    observation: Some(observation),
                    span: InSpan(span.clone()),
                    method,
                    inner: Scoped::new(inner, InSpan(span)),
                }
            }
            None => Kind::Plain {
                inner: self.inner.call(request),
            },
        };
        ResponseFuture { kind }
    }
}

pin_project! {
    /// The future of [`RequestSpan`].
    pub struct ResponseFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<F> {
        Plain {
            #[pin]
            inner: F,
        },
        Spanned {
            // dropped before the future inside: observers report from the outside in
            observation: Option<Observation<RequestObserver>>,
            span: InSpan,
            method: Method,
            #[pin]
            inner: Scoped<F, InSpan>,
        },
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: fmt::Display + 'static,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (observation, span, method, inner) = match self.project().kind.project() {
            KindProj::Plain { inner } => {
                let response = ready!(inner.poll(cx))?;
                return Poll::Ready(Ok(response.map(ResponseBody::off)));
            }
            KindProj::Spanned {
                observation,
                span,
                method,
                inner,
            } => (observation, span, method, inner),
        };
        let Some(running) = observation.as_mut() else {
            return Poll::Pending;
        };
        let result = ready!(running.run(|| inner.poll(cx)));
        let Some(mut observation) = observation.take() else {
            return Poll::Pending;
        };
        Poll::Ready(match result {
            Ok(response) => {
                observation.observer_mut().head(response.status());
                let response = observation.into_response(method, response);
                Ok(
                    response
                        .map(|body| ResponseBody::on(Scoped::new(body, InSpan(span.0.clone())))),
                )
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
        let spanned = matches!(self.kind, Kind::Spanned { .. });
        f.debug_struct("ResponseFuture")
            .field("spanned", &spanned)
            .finish_non_exhaustive()
    }
}
