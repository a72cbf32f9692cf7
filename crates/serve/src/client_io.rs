//! What hyper reads and writes.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::{activity::Activity, preface::Peeked};

/// Long enough for a client to read a response that it got in the middle of its upload.
const AT_MOST: Duration = Duration::from_secs(2);

/// A connection without its encryption, whose first bytes have been read. It tells the [`Activity`] what the client
/// sends.
///
/// If the connection [lingers](Activity::lingers), it reads and discards what the client still sends after the last
/// response (RFC 9112 section 9.6). If a socket is closed with unread bytes, TCP resets the connection, and the client
/// may lose the response.
#[derive(Debug)]
pub(crate) struct ClientIo<I> {
    io: I,
    peeked: Peeked,
    activity: Arc<Activity>,
    until: Option<Pin<Box<Sleep>>>,
}

impl<I> ClientIo<I> {
    pub(crate) fn new(io: I, peeked: Peeked, activity: Arc<Activity>) -> Self {
        Self {
            io,
            peeked,
            activity,
            until: None,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for ClientIo<I> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.peeked.take(buf) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.received();
        }
        read
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientIo<I> {
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
        let this = &mut *self;
        if this.until.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            if !this.activity.lingers.load(Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let until = this.until.get_or_insert_with(|| Box::pin(sleep(AT_MOST)));
        if until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut bytes = [0; 4096];
            let mut buf = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut this.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                // The client has read the end, or has disconnected.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        net::{TcpListener, TcpStream},
        task::JoinHandle,
        time::Instant,
    };

    use super::*;
    use crate::settings::Settings;

    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    static PART: [u8; 100_000] = [b'x'; 100_000];

    fn client_io<I>(io: I, lingers: bool) -> ClientIo<I> {
        let activity = Activity::new(&Settings::default());
        activity.lingers.store(lingers, Relaxed);
        ClientIo::new(io, Peeked::default(), Arc::new(activity))
    }

    /// A client that has sent a part of its upload, and a server that has read the start of it, responds and closes.
    async fn answered(lingers: bool) -> io::Result<(TcpStream, JoinHandle<io::Result<()>>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut client = TcpStream::connect(listener.local_addr()?).await?;
        client.write_all(&PART).await?;
        let (server, _) = listener.accept().await?;
        let server = tokio::spawn(async move {
            let mut server = client_io(server, lingers);
            server.read_exact(&mut [0; 100]).await?;
            server.write_all(ANSWER).await?;
            server.shutdown().await
        });
        Ok((client, server))
    }

    #[tokio::test]
    async fn a_client_that_sends_to_the_end_reads_its_answer() -> io::Result<()> {
        let (mut client, server) = answered(true).await?;
        client.readable().await?;
        for _ in 0..10 {
            client.write_all(&PART).await?;
        }
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await?;
        assert_eq!(answer, ANSWER);
        assert!(!server.is_finished(), "the end came with the answer");
        drop(client);
        server.await?
    }

    /// The reason for lingering: a client that sends everything before it reads would never get its response.
    #[tokio::test]
    async fn a_close_with_unread_bytes_breaks_the_upload() -> io::Result<()> {
        let (mut client, server) = answered(false).await?;
        server.await??;
        let sent = client.write_all(&PART).await;
        assert!(sent.is_err(), "there was no reset");
        Ok(())
    }

    /// How long the server's shutdown takes.
    async fn closing(server: DuplexStream, lingers: bool) -> io::Result<Duration> {
        let start = Instant::now();
        client_io(server, lingers).shutdown().await?;
        Ok(start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_the_client_and_not_for_ever() -> io::Result<()> {
        let (silent, server) = duplex(16);
        assert_eq!(closing(server, true).await?, AT_MOST);
        drop(silent);

        let (client, server) = duplex(16);
        let second = Duration::from_secs(1);
        tokio::spawn(async move {
            sleep(second).await;
            drop(client);
        });
        assert_eq!(closing(server, true).await?, second);

        let (_client, server) = duplex(16);
        assert_eq!(closing(server, false).await?, Duration::ZERO);
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_stops_is_left_after_a_while() -> io::Result<()> {
        let (mut client, server) = duplex(16);
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            // Each write fills the pipe, so the server must keep reading.
            while client.write_all(&[b'x'; 16]).await.is_ok() {
                sent += 1;
                sleep(Duration::from_millis(100)).await;
            }
            sent
        });
        assert_eq!(closing(server, true).await?, AT_MOST);
        assert_eq!(sending.await?, 20);
        Ok(())
    }
}
