//! A raw HTTP/1.x client, which sends exactly the given bytes and keeps all received bytes.

mod reply;

pub use reply::Reply;

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use crate::{End, PATIENCE, Request};

/// One connection. It only reads when asked to: a client that does not call [`reply`](Self::reply) or [`Reply::chunk`]
/// is stalled.
///
/// ```
/// use axum::{Router, routing::get};
/// use e2e::{End, Request, h1, serve};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = serve(Router::new().route("/", get(|| async { "hello" }))).await?;
/// let mut connection = h1::Connection::open(server.addr()).await?;
/// connection.send_raw(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
/// let first = connection.reply().await?.finish().await;
/// assert!(first.raw.starts_with(b"HTTP/1.1 200 OK\r\n"));
/// let second = connection.reply().await?.finish().await;
/// assert_eq!((second.text().as_str(), second.end), ("hello", End::Length));
/// assert_eq!(connection.closed().await, (End::Closed, "".into()));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    patience: Duration,
    /// Methods of the requests whose responses have not been read, oldest first.
    unanswered: VecDeque<(String, Instant)>,
    received: Vec<u8>,
    /// Length of `received` after each read, and the time.
    arrivals: Vec<(usize, Instant)>,
    /// Number of bytes of `received` that have been parsed.
    taken: usize,
}

impl Connection {
    /// Connects, with TCP_NODELAY.
    ///
    /// # Errors
    /// As `TcpStream::connect`.
    pub async fn open(addr: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(addr).await?)
    }

    /// Connects with a receive buffer of `bytes` (the kernel doubles it, with a minimum of about 2 KiB), so that the
    /// server soon notices a client that does not read.
    ///
    /// # Errors
    /// As `TcpSocket::connect`.
    pub async fn open_with_receive_buffer(addr: SocketAddr, bytes: u32) -> io::Result<Self> {
        let socket = if addr.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_recv_buffer_size(bytes)?;
        Self::over(socket.connect(addr).await?)
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            peer: stream.peer_addr()?,
            stream,
            patience: PATIENCE,
            unanswered: VecDeque::new(),
            received: Vec::new(),
            arrivals: Vec::new(),
            taken: 0,
        })
    }

    /// Sets how long to wait for the next byte before the exchange counts as [`End::Stalled`]; [`PATIENCE`] at first.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The client's own address.
    ///
    /// # Errors
    /// If the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Writes a request. Several can be written before the first response is read (pipelining).
    ///
    /// # Errors
    /// As the socket's write.
    pub async fn send(&mut self, request: &Request) -> io::Result<()> {
        self.stream.write_all(&request.encode(self.peer)).await?;
        self.unanswered
            .push_back((request.method.clone(), Instant::now()));
        Ok(())
    }

    /// Writes exactly these bytes. The response is parsed as one to GET; see [`reply_to`](Self::reply_to) for other
    /// methods.
    ///
    /// # Errors
    /// As the socket's write.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Closes the sending direction (TCP FIN); responses can still be read.
    ///
    /// # Errors
    /// As the socket's shutdown.
    pub async fn close_write(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Closes with a TCP RST instead of a FIN.
    ///
    /// # Errors
    /// If the socket option cannot be set.
    pub fn reset(self) -> io::Result<()> {
        self.stream.set_zero_linger()
    }

    /// Reads the next response head and skips interim (1xx) responses; its body is read through the [`Reply`].
    ///
    /// # Errors
    /// How the connection ended before a complete head. [`End::Closed`] means that no byte of the head arrived.
    pub async fn reply(&mut self) -> Result<Reply<'_>, End> {
        let (method, sent_at) = self
            .unanswered
            .pop_front()
            .unwrap_or_else(|| ("GET".to_owned(), Instant::now()));
        Reply::read(self, &method, sent_at).await
    }

    /// Like [`reply`](Self::reply), to a request with this method that was written by [`send_raw`](Self::send_raw).
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub async fn reply_to(&mut self, method: &str) -> Result<Reply<'_>, End> {
        Reply::read(self, method, Instant::now()).await
    }

    /// Waits until the server closes the connection. Returns [`End::Closed`], [`End::TcpReset`] or [`End::Stalled`]
    /// (still open), and the received bytes that belong to no reply.
    pub async fn closed(&mut self) -> (End, Bytes) {
        let end = loop {
            if let Err(end) = self.fill().await {
                break end;
            }
        };
        (end, Bytes::copy_from_slice(&self.received[self.taken..]))
    }

    /// Every byte received so far.
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Reads at most `max` bytes, like a slow client. They are added to [`received`](Self::received), and a later reply
    /// parses them.
    ///
    /// # Errors
    /// [`End::Closed`], [`End::TcpReset`] or [`End::Stalled`].
    pub async fn read_some(&mut self, max: usize) -> Result<usize, End> {
        let start = self.received.len();
        self.received.resize(start + max, 0);
        let read = timeout(self.patience, self.stream.read(&mut self.received[start..])).await;
        let n = *read.as_ref().map_or(&0, |read| read.as_ref().unwrap_or(&0));
        self.received.truncate(start + n);
        match read {
            Err(_) => Err(End::Stalled),
            Ok(Err(e)) => Err(e.into()),
            Ok(Ok(0)) => Err(End::Closed),
            Ok(Ok(n)) => {
                self.arrivals.push((start + n, Instant::now()));
                Ok(n)
            }
        }
    }

    async fn fill(&mut self) -> Result<usize, End> {
        self.read_some(16 * 1024).await
    }

    fn arrival(&self, offset: usize) -> Instant {
        let i = self.arrivals.partition_point(|(end, _)| *end < offset);
        self.arrivals[i].1
    }
}
