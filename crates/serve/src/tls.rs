//! TLS.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{Accept, TlsAcceptor, rustls::ServerConfig, server::TlsStream};

use crate::Listener;

/// A listener whose connections are encrypted; from [`Serve::tls`](crate::Serve::tls).
///
/// It accepts as fast as the inner listener: the handshake is part of the connection, so it does not block others.
pub struct TlsListener<L> {
    inner: L,
    acceptor: TlsAcceptor,
}

impl<L> TlsListener<L> {
    pub(crate) fn new(inner: L, config: Arc<ServerConfig>) -> Self {
        let config = match config.alpn_protocols.is_empty() {
            true => {
                let mut config = ServerConfig::clone(&config);
                config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
                Arc::new(config)
            }
            false => config,
        };
        Self {
            inner,
            acceptor: config.into(),
        }
    }
}

impl<L: Listener> Listener for TlsListener<L> {
    type Io = TlsIo<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, peer) = self.inner.accept().await;
        (TlsIo::new(self.acceptor.accept(io)), peer)
    }

    fn tcp(io: &Self::Io) -> Option<&TcpStream> {
        match &io.0 {
            State::Handshake(accept) => L::tcp(accept.get_ref()?),
            State::Open(stream) => L::tcp(stream.get_ref().0),
            State::Failed => None,
        }
    }

    fn close(self) -> impl Iterator<Item = io::Result<(Self::Io, Self::Addr)>> + Send {
        let acceptor = self.acceptor;
        let left = self.inner.close();
        left.map(move |left| left.map(|(io, peer)| (TlsIo::new(acceptor.accept(io)), peer)))
    }
}

impl<L: fmt::Debug> fmt::Debug for TlsListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// An encrypted connection. Its handshake runs when it is first read or written.
pub struct TlsIo<I>(State<I>);

enum State<I> {
    Handshake(Box<Accept<I>>),
    Open(Box<TlsStream<I>>),
    /// The handshake failed, and its error has been returned.
    Failed,
}

impl<I: AsyncRead + AsyncWrite + Unpin> TlsIo<I> {
    fn new(accept: Accept<I>) -> Self {
        Self(State::Handshake(Box::new(accept)))
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut TlsStream<I>>>> {
        if let State::Handshake(accept) = &mut self.0 {
            self.0 = match ready!(Pin::new(accept.as_mut()).poll(cx)) {
                Ok(stream) => State::Open(Box::new(stream)),
                Err(error) => {
                    self.0 = State::Failed;
                    return Poll::Ready(Err(error));
                }
            };
        }
        Poll::Ready(match &mut self.0 {
            State::Open(stream) => Ok(Pin::new(stream.as_mut())),
            State::Handshake(_) | State::Failed => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_read(cx, buf)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        // Like rustls, which gathers the slices into records.
        true
    }
}

impl<I> fmt::Debug for TlsIo<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.0 {
            State::Handshake(_) => "handshake",
            State::Open(_) => "open",
            State::Failed => "failed",
        };
        f.debug_tuple("TlsIo").field(&state).finish()
    }
}
