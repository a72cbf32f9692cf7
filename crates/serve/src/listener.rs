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
    /// It does not wait. The server asks again some milliseconds after the first `None`, for connections whose handshake was in
    /// progress, and then drops the iterator. An error means that a connection cannot be accepted now, most likely because the process has
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
        if let Ok(listener) = &listener {
            begin_no_handshake(listener);
        }
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
                Ok((stream, peer)) => return (with_small_buffer(stream), peer.into()),
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
            Ok((with_small_buffer(stream), peer.into()))
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

/// Makes the kernel drop each SYN to a closing listener. A connection that is established between the last `accept` and
/// the close would be reset, and its client may have sent a request that cannot be repeated. The client of a dropped SYN
/// sends it again after a second, and is then refused: it knows that its request was not processed.
///
/// On other systems than Linux, connections of that short time are still reset.
fn begin_no_handshake(listener: &std::net::TcpListener) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use socket2::{SockFilter, SockRef};

        /// Classic BPF (Linux, Documentation/networking/filter.rst). A packet begins with its TCP header, whose flags are in
        /// byte 13.
        const SYN_ALONE: [SockFilter; 5] = [
            SockFilter::new(0x30, 0, 0, 13),       // load the byte 13
            SockFilter::new(0x54, 0, 0, 0x12),     // keep SYN and ACK
            SockFilter::new(0x15, 0, 1, 0x02),     // SYN without ACK:
            SockFilter::new(0x06, 0, 0, 0),        // drop it
            SockFilter::new(0x06, 0, 0, u32::MAX), // pass it
        ];
        if let Err(error) = SockRef::from(listener).attach_filter(&SYN_ALONE) {
            tracing::debug!(%error, "the last connections of the listener may be reset");
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = listener;
}

/// Otherwise the kernel delays a small frame until the previous one is acknowledged.
fn without_delay(stream: TcpStream) -> TcpStream {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY not set");
    }
    stream
}

/// The kernel accepts bytes again when three quarters of the buffer are free. With its default, a client that reads less
/// than 5.5 kB/s seems to take nothing for 30 s, and one that has stopped costs up to 870 kB.
#[cfg(unix)]
fn with_small_buffer(stream: tokio::net::UnixStream) -> tokio::net::UnixStream {
    if let Err(error) = socket2::SockRef::from(&stream).set_send_buffer_size(UNIX_SEND_BUFFER) {
        tracing::debug!(%error, "SO_SNDBUF not set");
    }
    stream
}

/// Linux doubles it. It then reports progress after 32 kB at the latest.
#[cfg(unix)]
const UNIX_SEND_BUFFER: usize = 16 * 1024;

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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    #[tokio::test]
    async fn a_connection_to_a_closing_listener_is_accepted_or_refused() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let early = TcpStream::connect(addr).await?;
        let mut backlog = listener.close();
        let (_stream, peer) = backlog.next().expect("it is in the backlog")?;
        assert_eq!(peer, early.local_addr()?);
        assert!(backlog.next().is_none());

        // The last moment before the close.
        let mut late = tokio::spawn(TcpStream::connect(addr));
        let in_time = tokio::time::timeout(Duration::from_millis(200), &mut late).await;
        assert!(
            in_time.is_err(),
            "a connection that nobody will accept: {in_time:?}"
        );
        drop(backlog);
        let refused = late.await?.map_err(|error| error.kind());
        assert_eq!(refused.err(), Some(io::ErrorKind::ConnectionRefused));
        Ok(())
    }

    /// The kernel's steps of progress are a fifth of what it accepts.
    #[tokio::test]
    async fn a_unix_socket_accepts_little_for_a_client_that_does_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let mut listener = UnixListener::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).await.unwrap();
        let (server, _) = Listener::accept(&mut listener).await;
        let server = server.into_std().unwrap();
        let mut accepted = 0;
        while let Ok(more) = io::Write::write(&mut &server, &[b'x'; 16 * 1024]) {
            accepted += more;
        }
        assert!(accepted < 200_000, "{accepted}");
    }
}
