//! A layer of the test's own: outside of all layers, or inside of them.

use std::sync::Arc;

use http::Request;
use parking_lot::Mutex;
use tower::Layer;
use tower_stream::core::{
    Exchange, StreamEnd,
    wrapper::{Begin, Hook, Stage, Wrapped},
};

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

impl<S> Layer<S> for Probe {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

impl Hook for Probe {
    type Stage = Self;

    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<Self> {
        Begin::Follow(self.clone())
    }
}

impl Stage for Probe {
    fn on_end(&mut self, end: &StreamEnd) {
        self.0.push(end);
    }
}
