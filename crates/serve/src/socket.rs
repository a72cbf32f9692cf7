//! The transport of a connection, and how fast its client reads.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{activity::Activity, settings::Settings};

/// How many bytes that it has not sent yet the kernel accepts. Without this limit it accepts megabytes, and write
/// progress says nothing about the reader: a reader of 7 kB/s then seems to take nothing for 40 s at a time.
#[cfg(any(target_os = "android", target_os = "linux"))]
const NOT_SENT: u32 = 16 * 1024;

/// The transport of a connection, below its encryption. It tells the connection's [`Activity`] what the client takes.
///
/// If the connection [aborts](Activity::aborts), the kernel discards the bytes that it has not sent, which otherwise it
/// would keep for minutes.
#[derive(Debug)]
pub(crate) struct Socket<I> {
    io: I,
    tcp: fn(&I) -> Option<&TcpStream>,
    activity: Arc<Activity>,
}

impl<I> Socket<I> {
    pub(crate) fn new(
        io: I,
        tcp: fn(&I) -> Option<&TcpStream>,
        activity: Arc<Activity>,
        settings: &Settings,
    ) -> Self {
        if settings.has_stall_guard()
            && let Some(stream) = tcp(&io)
            && let Err(error) = configure(stream, settings.write_stall)
        {
            tracing::debug!(%error, "cannot set the options of the socket");
        }
        Self { io, tcp, activity }
    }

    #[inline]
    fn observe(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.activity.took(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.writes().waits(),
        }
        written
    }
}

#[cfg(any(target_os = "android", target_os = "linux"))]
fn configure(stream: &TcpStream, write_stall: Option<Duration>) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_notsent_lowat(NOT_SENT)?;
    if let Some(write_stall) = write_stall {
        // The kernel also counts the time during which the client announces no space, so this must be longer than
        // `write_stall`. Otherwise, it would end a paused reader with an I/O error first.
        let timeout = write_stall.saturating_mul(2);
        socket.set_tcp_user_timeout(Some(timeout.min(MAX_USER_TIMEOUT)))?;
    }
    Ok(())
}

/// The kernel counts its milliseconds in an `int`.
#[cfg(any(target_os = "android", target_os = "linux"))]
const MAX_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

#[cfg(not(any(target_os = "android", target_os = "linux")))]
fn configure(_: &TcpStream, _: Option<Duration>) -> io::Result<()> {
    Ok(())
}

impl<I> Drop for Socket<I> {
    fn drop(&mut self) {
        if self.activity.aborts.load(Relaxed)
            && let Some(stream) = (self.tcp)(&self.io)
        {
            // Fails only if the connection is gone already.
            let _ = stream.set_zero_linger();
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Socket<I> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Socket<I> {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.observe(written)
    }

    /// A transport with a buffer of its own has bytes left as long as it has not been flushed.
    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        match &flushed {
            Poll::Ready(Ok(())) => self.activity.took(0),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.writes().waits(),
        }
        flushed
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
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.observe(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
