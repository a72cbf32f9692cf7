//! The number of open connections, for status pages and metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counts the open connections of each server that it is given to by [`Serve::connections`](crate::Serve::connections).
/// Clones share the count.
///
/// ```
/// use tower_stream_serve::{Connections, serve};
///
/// # async fn run(listener: tokio::net::TcpListener, app: axum::Router) -> std::io::Result<()> {
/// let connections = Connections::default();
/// let server = serve(listener, app).connections(&connections);
/// println!("{} connections are open", connections.open());
/// # server.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<AtomicU64>);

impl Connections {
    /// The number of connections that have been accepted and have not ended, idle ones included.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn enter(&self) -> Entered {
        self.0.fetch_add(1, Relaxed);
        Entered(Arc::clone(&self.0))
    }
}

/// One open connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Entered(Arc<AtomicU64>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
