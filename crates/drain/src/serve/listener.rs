//! Where connections come from.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

/// What [`Drain::serve`](crate::Drain::serve) accepts connections from.
///
/// Implemented for tokio's TCP and Unix listeners; implement it to serve over TLS, say.
pub trait Listener: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The address of a peer.
    type Addr: Clone + Send + Sync + 'static;

    /// Waits for the next connection. Errors are for the listener to log and to wait out.
    ///
    /// It has to be safe to cancel.
    fn accept(&mut self) -> impl Future<Output = (Self::Io, Self::Addr)> + Send;

    /// Stops listening; gives the connections that the system has completed and nobody has accepted yet. Their clients
    /// may have sent a request already, which a listener that is merely dropped loses.
    fn close(self) -> Vec<(Self::Io, Self::Addr)>
    where
        Self: Sized,
    {
        Vec::new()
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match Self::accept(self).await {
                Ok((stream, peer)) => return (without_delay(stream), peer),
                Err(error) => wait_out(&error).await,
            }
        }
    }

    fn close(self) -> Vec<(TcpStream, SocketAddr)> {
        // the plain listener asks the system, not a readiness that may not have been reported yet
        let Ok(listener) = self.into_std() else {
            return Vec::new();
        };
        std::iter::from_fn(|| listener.accept().ok())
            .filter_map(|(stream, peer)| {
                stream.set_nonblocking(true).ok()?;
                let stream = TcpStream::from_std(stream).ok()?;
                Some((without_delay(stream), peer))
            })
            .collect()
    }
}

#[cfg(unix)]
impl Listener for tokio::net::UnixListener {
    type Io = tokio::net::UnixStream;
    type Addr = std::sync::Arc<tokio::net::unix::SocketAddr>;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match Self::accept(self).await {
                Ok((stream, peer)) => return (stream, peer.into()),
                Err(error) => wait_out(&error).await,
            }
        }
    }

    fn close(self) -> Vec<(Self::Io, Self::Addr)> {
        let Ok(listener) = self.into_std() else {
            return Vec::new();
        };
        std::iter::from_fn(|| listener.accept().ok())
            .filter_map(|(stream, peer)| {
                stream.set_nonblocking(true).ok()?;
                let stream = tokio::net::UnixStream::from_std(stream).ok()?;
                let peer = tokio::net::unix::SocketAddr::from(peer);
                Some((stream, peer.into()))
            })
            .collect()
    }
}

/// Otherwise the kernel holds a small frame back until the one before is acknowledged.
fn without_delay(stream: TcpStream) -> TcpStream {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY not set");
    }
    stream
}

async fn wait_out(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    ) {
        return;
    }
    // out of descriptors, most likely: some will be closed
    tracing::error!(%error, "cannot accept");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
