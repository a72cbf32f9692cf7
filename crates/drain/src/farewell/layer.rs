//! The layer that ends streams.

use std::{fmt, sync::Arc};

use tower_layer::Layer;
use tower_stream_core::wrapper::Wrapped;

use super::Policy;
use crate::{Drain, shared::Shared};

/// Ends streams when the drain says so, with a farewell that their clients can read, and answers at the deadline for
/// handlers that have not: a 503 with `Retry-After`, or `grpc-status: 14`.
///
/// From [`Drain::farewell`]. It counts nothing itself: without a [`DrainLayer`](crate::DrainLayer) and not under
/// [`Drain::server`] nothing is in flight as far as the drain can see, so it is dead as soon as it closes and streams get
/// no farewell. Put it inside of the error writer, if there is one, and inside of a compression; one a route
/// with another [`policy`](Self::policy) overrules one further out.
///
/// The farewell of a stream whose [`Dialect`](tower_stream_core::Dialect) is named has the form of that dialect, in most the
/// one of an error; behind its last record a stream gets none and ends as complete. Of the others:
///
/// | stream | its farewell |
/// |---|---|
/// | `text/event-stream` | `event: drain` with `data:` and `retry:`, no `id:` |
/// | JSON lines, JSON text sequences | one object, `{"drain":{..}}` |
/// | gRPC over HTTP/2, gRPC-Web | trailers with `grpc-status: 14` (UNAVAILABLE), between two messages |
/// | anything else, gRPC over HTTP/1, half a gRPC message, a declared length, 206, a content coding | the body fails with a [`Cause`](tower_stream_core::Cause): an error writer outside tells the client, or else the truncation does |
///
/// Only whole events and lines are let through, so that a farewell never follows half of one; a record over 64 KiB is
/// let through open, and if the deadline finds it so, the body fails. Whatever the ending, the
/// cause that is recorded in the request's [`Exchange`](tower_stream_core::Exchange) is a [`FaultKind::Drain`](tower_stream_core::FaultKind::Drain) before the body
/// inside is dropped.
#[derive(Clone)]
pub struct FarewellLayer {
    pub(super) shared: Option<Arc<Shared>>,
    /// `None`: by what is known of the response.
    pub(super) policy: Option<Policy>,
}

impl FarewellLayer {
    pub(crate) fn new(drain: &Drain) -> Self {
        Self {
            shared: Some(Arc::clone(&drain.shared)),
            policy: None,
        }
    }

    /// When streams are ended. Default: [`Policy::EndEarly`] for a response that another server can continue
    /// ([`Claim::Resumable`](tower_stream_core::Claim::Resumable)), [`Policy::RunToDeadline`] for all others.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// A layer of the same type that does nothing.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            shared: None,
            policy: None,
        }
    }
}

impl<S> Layer<S> for FarewellLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

impl fmt::Debug for FarewellLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FarewellLayer")
            .field("drain", &self.shared)
            .field("policy", &self.policy)
            .finish()
    }
}
