//! The layer that admits, counts and closes.

use std::{fmt, sync::Arc};

use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

use crate::{Drain, shared::Shared};

/// Admits requests, counts them to the end of their body, and closes their connections once the drain has started.
///
/// Created by [`Drain::layer`]. Its effect on a request depends on the state:
///
/// | state | request | response, when its head is created |
/// |---|---|---|
/// | active | counted | unchanged |
/// | advertise | counted | HTTP/1: `close` is added to its `Connection` header |
/// | close | refused, unless exempt | the same, for requests still in flight |
/// | dead | refused, unless exempt | the same |
///
/// Put it outside of every layer that may replace a response head or write a last record, so that these responses close
/// their connections too and are counted. A request that passes two layers of one drain is counted once.
///
/// A 101 and a 2xx to CONNECT keep their `Connection` header. HTTP/2 has no such header: its connections are closed by
/// GOAWAY, which only a server can send, see [`Drain::server`].
#[derive(Clone)]
pub struct DrainLayer {
    pub(crate) shared: Option<Arc<Shared>>,
}

impl DrainLayer {
    pub(crate) fn new(drain: &Drain) -> Self {
        Self {
            shared: Some(Arc::clone(&drain.shared)),
        }
    }

    /// A disabled layer of the same type.
    #[must_use]
    pub const fn off() -> Self {
        Self { shared: None }
    }
}

impl<S> Layer<S> for DrainLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

impl fmt::Debug for DrainLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainLayer")
            .field("drain", &self.shared)
            .finish()
    }
}
