//! Where connections come from.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

/// What [`serve`](crate::serve) accepts connections from.
///
/// Implemented for tokio's TCP and Unix listeners; implement it to serve over TLS, say.
pub trait Listener: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The address of a peer.
    type Addr: Clone + Send + Sync + 'static;

    /// Waits for the next connection. Errors are for the listener to log and to wait out.
    ///
    /// The server polls the future to its end. It drops one only when it stops to accept, so a future that is not safe
    /// to cancel can lose one connection then, and none before.
    fn accept(&mut self) -> impl Future<Output = (Self::Io, Self::Addr)> + Send;

    /// Gives the connections that the system has completed and nobody has accepted yet, then stops listening. Their
    /// clients may have sent a request already, which a listener that is merely dropped loses.
    ///
    /// It does not wait. An error says that a connection cannot be accepted now, for want of descriptors most likely: it
    /// is asked again when a connection has ended, until the drain is dead.
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

/// Accepts until there is nobody left. The plain listener is asked, and not tokio's: that one asks the system only after
/// a readiness which may not have been reported yet.
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
