//! A layer that does nothing, to measure the cost of the wrapper itself.

use axum::http::Request;
use tower::Layer;
use tower_stream::core::{
    Exchange,
    wrapper::{Begin, Hook, Stage, Wrapped},
};

#[derive(Clone)]
pub(crate) struct NothingLayer;

pub(crate) struct Nothing;

impl<S> Layer<S> for NothingLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

impl Hook for NothingLayer {
    type Stage = Nothing;

    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<Nothing> {
        Begin::Follow(Nothing)
    }
}

impl Stage for Nothing {}
