//! Detects the HTTP version of a client.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The start of each HTTP/2 connection (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The HTTP version that the first bytes of a connection indicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// A connection whose first bytes have been read.
#[derive(Debug)]
pub(crate) struct Peeked<I> {
    io: I,
    bytes: [u8; PREFACE.len()],
    /// The part of `bytes` that has not been read yet.
    from: u8,
    to: u8,
}

impl<I: AsyncRead + Unpin> Peeked<I> {
    /// Reads until the version is known. hyper-util's `auto` does the same, but its time cannot be limited.
    ///
    /// # Errors
    ///
    /// Fails if the connection fails, or ends before the first byte.
    pub(crate) async fn read(mut io: I) -> io::Result<(Self, Version)> {
        let mut bytes = [0; PREFACE.len()];
        let mut to = 0;
        let version = loop {
            let read = io.read(&mut bytes[to..]).await?;
            to += read;
            if bytes[..to] != PREFACE[..to] {
                break Version::Http1;
            }
            if to == PREFACE.len() {
                break Version::Http2;
            }
            match (read, to) {
                (0, 0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // hyper reports what is wrong with it.
                (0, _) => break Version::Http1,
                _ => {}
            }
        };
        let peeked = Self {
            io,
            bytes,
            from: 0,
            to: to as u8,
        };
        Ok((peeked, version))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Peeked<I> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.from < this.to {
            let left = &this.bytes[usize::from(this.from)..usize::from(this.to)];
            let now = left.len().min(buf.remaining());
            buf.put_slice(&left[..now]);
            this.from += now as u8;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Peeked<I> {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
