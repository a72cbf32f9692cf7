//! An observer of the test's own: outside of all layers, or inside of them.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::Body,
    extract::Request,
    response::Response,
    routing::{Route, future::RouteFuture},
};
use http::Method;
use parking_lot::Mutex;
use tower::Layer;
use tower_service::Service;
use tower_stream::core::{Exchange, Observation, Observe, StreamEnd};

/// How streams ended, each in one line: outcome, and error type if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ends(Arc<Mutex<Vec<String>>>);

impl Ends {
    pub(crate) fn push(&self, end: &StreamEnd) {
        self.0.lock().push(line(
            end.outcome().as_str(),
            end.error_type().unwrap_or_default(),
        ));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

pub(crate) fn line(outcome: &str, error_type: &str) -> String {
    format!("{outcome} {error_type}").trim_end().to_owned()
}

#[derive(Clone)]
pub(crate) struct Probe(pub(crate) Ends);

impl Observe for Probe {
    fn end(&mut self, end: &StreamEnd) {
        self.0.push(end);
    }
}

impl Layer<Route> for Probe {
    type Service = Probed;

    fn layer(&self, inner: Route) -> Probed {
        Probed {
            inner,
            probe: self.clone(),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Probed {
    inner: Route,
    probe: Probe,
}

impl Service<Request> for Probed {
    type Response = Response;
    type Error = Infallible;
    type Future = ProbedFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, mut request: Request) -> ProbedFuture {
        let fault = Exchange::of(request.extensions_mut());
        let mut observation = Observation::new(self.probe.clone(), fault);
        let method = request.method().clone();
        let inner = Box::pin(observation.run(|| self.inner.call(request)));
        ProbedFuture {
            observation: Some(observation),
            method,
            inner,
        }
    }
}

pub(crate) struct ProbedFuture {
    // before the future inside: observers report from the outside in
    observation: Option<Observation<Probe>>,
    method: Method,
    inner: Pin<Box<RouteFuture<Infallible>>>,
}

impl Future for ProbedFuture {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let observation = this
            .observation
            .as_mut()
            .expect("not polled after it is ready");
        let response = ready!(observation.run(|| this.inner.as_mut().poll(cx)))?;
        let observation = this.observation.take().expect("seen above");
        let response = observation.into_response(&this.method, response);
        Poll::Ready(Ok(response.map(Body::new)))
    }
}
