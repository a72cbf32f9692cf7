//! Two listeners, one server.

use std::{io, net::SocketAddr};

use axum::{Router, serve::ListenerExt};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{Args, State, admin, app};

/// A running demo server.
///
/// Dropping it starts the same graceful stop as [`shutdown`](Server::shutdown), without waiting.
#[derive(Debug)]
pub struct Server {
    state: State,
    public: Listening,
    admin: Listening,
}

#[derive(Debug)]
struct Listening {
    addr: SocketAddr,
    stop: watch::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Binds both listeners and serves in tasks of the current runtime.
    ///
    /// # Errors
    ///
    /// When an address cannot be bound; the message names it.
    pub async fn start(args: Args) -> io::Result<Self> {
        let state = State::new(args);
        let public = bind("public", state.args.public).await?;
        let admin_listener = bind("admin", state.args.admin).await?;
        let server = Self {
            public: serve(public, app(&state))?,
            admin: serve(admin_listener, admin(&state))?,
            state,
        };
        tracing::info!(
            public = %server.public_addr(),
            admin = %server.admin_addr(),
            "listening"
        );
        Ok(server)
    }

    /// The bound address of the public listener.
    pub fn public_addr(&self) -> SocketAddr {
        self.public.addr
    }

    /// The bound address of the admin listener.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.addr
    }

    /// Stops gracefully: no new connections, streams in flight may end, at most
    /// `drain_deadline` long. The admin listener answers until the public one is done.
    ///
    /// Returns whether every stream ended in time. Streams that did not are left to the
    /// runtime: they are cut when it, or the process, ends.
    pub async fn shutdown(self) -> bool {
        let deadline = self.state.args.drain_deadline;
        tracing::info!(deadline = %humantime::format_duration(deadline), "stopping");
        self.state.stop();
        let in_time = tokio::time::timeout(deadline, self.public.stopped()).await;
        match &in_time {
            Ok(()) => tracing::info!("stopped: every stream ended"),
            Err(_) => tracing::warn!("stopped: streams were still open at the deadline"),
        }
        // An idle keep-alive probe must not hold the exit, so nobody waits for this one.
        drop(self.admin.stop);
        in_time.is_ok()
    }
}

impl Listening {
    async fn stopped(self) {
        drop(self.stop);
        match self.task.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "listener failed"),
            Err(error) => tracing::error!(%error, "listener task failed"),
        }
    }
}

async fn bind(name: &str, addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot bind the {name} listener to {addr}: {error}"),
        )
    })
}

/// Serves HTTP/1.1 and cleartext HTTP/2 on `listener`.
fn serve(listener: TcpListener, app: Router) -> io::Result<Listening> {
    let addr = listener.local_addr()?;
    let (stop, stopped) = watch::channel(());
    // Without it, the kernel holds a small frame back until the one before is acknowledged.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
    });
    let serving = axum::serve(listener, app).with_graceful_shutdown(sender_gone(stopped));
    let task = tokio::spawn(async move { serving.await });
    Ok(Listening { addr, stop, task })
}

async fn sender_gone(mut receiver: watch::Receiver<()>) {
    while receiver.changed().await.is_ok() {}
}
