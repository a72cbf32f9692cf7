//! The source of connections.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

/// A source of connections for [`serve`](crate::serve).
///
/// Implemented for tokio's TCP and Unix listeners. Implement it for other transports.
pub trait Listener: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The peer address.
    type Addr: Clone + Send + Sync + 'static;

    /// Waits for the next connection. The listener itself must log errors and wait until they are over.
    ///
    /// The server polls the future to its end. It drops a future only when it stops accepting, so a future that is not
    /// cancel safe can lose at most one connection.
    fn accept(&mut self) -> impl Future<Output = (Self::Io, Self::Addr)> + Send;

    /// Returns the TCP stream of a connection, if it is carried by one. Default: `None`.
    ///
    /// The server sets the options of this socket that its [`write_stall`](crate::Serve::write_stall) needs. Without
    /// them, the kernel accepts megabytes for a client that has stopped reading, and keeps them after the connection
    /// has been closed.
    fn tcp(io: &Self::Io) -> Option<&TcpStream> {
        let _ = io;
        None
    }

    /// Returns the connections that the system has completed but that have not been accepted yet, then stops listening.
    /// Their clients may already have sent a request, which would be lost if the listener were only dropped.
    ///
    /// It does not wait. An error means that a connection cannot be accepted now, most likely because the process has
    /// no file descriptors left: the server tries again when a connection has ended, until the drain is dead.
    fn close(self) -> impl Iterator<Item = io::Result<(Self::Io, Self::Addr)>> + Send
    where
        Self: Sized,
    {
        std::iter::empty()
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

    fn tcp(io: &TcpStream) -> Option<&TcpStream> {
        Some(io)
    }

    fn close(self) -> impl Iterator<Item = io::Result<(TcpStream, SocketAddr)>> + Send {
        let listener = self.into_std();
        backlog(listener, |listener| {
            let (stream, peer) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((without_delay(TcpStream::from_std(stream)?), peer))
        })
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

    fn close(self) -> impl Iterator<Item = io::Result<(Self::Io, Self::Addr)>> + Send {
        let listener = self.into_std();
        backlog(listener, |listener| {
            let (stream, peer) = listener.accept()?;
            stream.set_nonblocking(true)?;
            let stream = tokio::net::UnixStream::from_std(stream)?;
            let peer = tokio::net::unix::SocketAddr::from(peer);
            Ok((stream, peer.into()))
        })
    }
}

/// Accepts until the backlog is empty. Uses std's listener, because tokio's asks the system only after a readiness
/// event, which may not have been reported yet.
fn backlog<L, C>(
    listener: io::Result<L>,
    accept: impl Fn(&L) -> io::Result<C>,
) -> impl Iterator<Item = io::Result<C>> {
    let listener = listener.ok();
    std::iter::from_fn(move || match accept(listener.as_ref()?) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        accepted => Some(accepted),
    })
}

/// Otherwise the kernel delays a small frame until the previous one is acknowledged.
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
    // Most likely out of file descriptors; some will be closed.
    tracing::error!(%error, "cannot accept");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
