//! The interface for a server with a drain.
//!
//! `tower_stream_serve::serve` uses this module. A server of your own drains in the same way if it stops accepting at
//! [`Drain::handover`], shuts down its connections at [`Drain::close`], and aborts them at [`Drain::dead`].

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use crate::{Drain, shared::Shared};
pub use crate::{
    close::Closing,
    refusal::{RefusedStream, UnreadUpload},
};

impl Drain {
    /// Registers a server. The drain is not dead before the returned guard is dropped, or the deadline has passed.
    ///
    /// With such a server, a request that arrives just after the close was sent before its client could know. It is
    /// served for 2 s after the close (or a quarter of the time to the deadline, if that is less).
    pub fn server(&self) -> ServerGuard {
        self.shared.server_begins();
        ServerGuard(Arc::clone(&self.shared))
    }

    /// Waits until a server should stop accepting and send GOAWAY: 250 ms before the close, or a quarter of
    /// [`advertise`](crate::Builder::advertise) if that is less.
    pub async fn handover(&self) {
        self.shared.until(|schedule| Some(schedule.handover)).await;
    }

    /// Waits until a server should close idle connections.
    pub async fn close(&self) {
        self.shared.until(|schedule| Some(schedule.close)).await;
    }

    /// The time of the start; `None` before the start.
    #[must_use]
    pub fn started_at(&self) -> Option<Instant> {
        Some(self.shared.schedule()?.started)
    }
}

/// A registered server; from [`Drain::server`].
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
