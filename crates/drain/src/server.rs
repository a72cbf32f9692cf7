//! What a server of a drain needs.
//!
//! `tower_stream_serve::serve` is built on this module. A server of your own that stops to accept at
//! [`Drain::handover`], shuts its connections down at [`Drain::close`] and aborts them at [`Drain::dead`] drains as well.

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use crate::{Drain, shared::Shared};
pub use crate::{
    close::Closing,
    refusal::{RefusedStream, UnreadUpload},
};

impl Drain {
    /// Counts a server among those that the drain waits for: it is not dead before the guard is dropped, or its deadline has
    /// passed.
    ///
    /// While there is such a server, a request that crosses the close on its way comes from a client that could not know:
    /// it is served for 2 s after the close (or a quarter of what is left until the deadline).
    pub fn server(&self) -> ServerGuard {
        self.shared.server_begins();
        ServerGuard(Arc::clone(&self.shared))
    }

    /// Waits until a server should stop to accept and send GOAWAY: 250 ms before the close, at most a quarter of
    /// [`advertise`](crate::Builder::advertise).
    pub async fn handover(&self) {
        self.shared.until(|schedule| Some(schedule.handover)).await;
    }

    /// Waits until a server should close connections that are idle.
    pub async fn close(&self) {
        self.shared.until(|schedule| Some(schedule.close)).await;
    }

    /// When it was started; `None` before that.
    #[must_use]
    pub fn started_at(&self) -> Option<Instant> {
        Some(self.shared.schedule()?.started)
    }
}

/// A server that a drain waits for; from [`Drain::server`].
#[must_use = "the drain waits for a server until its guard is dropped"]
pub struct ServerGuard(Arc<Shared>);

impl Drop for ServerGuard {
    fn drop(&mut self) {
        self.0.server_ends();
    }
}

impl fmt::Debug for ServerGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerGuard").finish_non_exhaustive()
    }
}
