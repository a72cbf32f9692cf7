//! The layer that admits, counts and closes.

use std::{fmt, sync::Arc};

use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

use crate::{Drain, shared::Shared};

/// Admits requests, counts them to the end of their body, and closes their connections once the drain is started.
///
/// From [`Drain::layer`]. What it does with a request depends on the state:
///
/// | state | request | response, when its head is made |
/// |---|---|---|
/// | active | counted | as it is |
/// | advertise | counted | HTTP/1: `close` joins its `Connection` header |
/// | close | refused, unless it is exempt | the same, for what is still in flight |
/// | dead | refused, unless it is exempt | the same |
///
/// It belongs outside of every layer that may replace a head or write a last record, so that those close too and count.
/// A request that passes two layers of one drain is counted once.
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

    /// A layer of the same type that does nothing.
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
