//! What `serve` and the layer tell each other about one connection.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::Extensions;

/// One connection of `serve`, in the extensions of each of its requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link(Arc<AtomicBool>);

impl Link {
    pub(crate) fn of(request: &Extensions) -> Option<&Self> {
        request.get()
    }

    /// An answer went out while the client was still sending. Closing with its bytes unread would reset the connection,
    /// and the reset may overtake the answer: read on for a while.
    pub(crate) fn linger(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    #[cfg(feature = "serve")]
    pub(crate) fn is_lingering(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
