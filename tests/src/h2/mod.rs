//! An HTTP/2 client over cleartext that returns responses and also records their frames.
//!
//! The `h2` crate implements the protocol; a tap between it and the socket records every frame that the server sends.

mod stream;
mod tap;

pub use ::h2::Reason;
pub use stream::{Reply, Stream};
pub use tap::{Frame, FrameKind};

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ::h2::client::SendRequest;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};

use crate::{End, PATIENCE, Request};
use bytes::Bytes;
use tap::{Seen, Tap};

/// The last stream that the first GOAWAY of a graceful shutdown names.
pub const EVERY_STREAM: u32 = (1 << 31) - 1;

/// One connection, several streams. Dropping it closes the socket; streams still open see their connection end.
///
/// A stream whose [`Reply::chunk`] is not called releases no flow control window, so the server can send 65,535 bytes
/// on it ([`open_with_window`](Self::open_with_window) for another number). The connection's own window is so large
/// that a stalled stream does not block others.
///
/// ```
/// use axum::{Router, routing::get};
/// use e2e::{Request, h2::{Connection, FrameKind, Reason}, serve};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = serve(Router::new().route("/", get(|| async { "hello" }))).await?;
/// let mut connection = Connection::open(server.addr()).await?;
/// let stream = connection.send(&Request::get("/")).await?;
/// let id = stream.id();
/// assert_eq!(stream.reply().await?.finish().await.text(), "hello");
/// assert!(connection.frames().iter().any(|frame| frame.stream == id && frame.kind == FrameKind::Data));
/// server.begin_shutdown();
/// let (_last_stream, reason) = connection.go_away().await?;
/// assert_eq!(reason, Reason::NO_ERROR);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    seen: Arc<Seen>,
    driver: JoinHandle<()>,
    authority: String,
    patience: Duration,
}

impl Connection {
    /// Connects with prior knowledge, with TCP_NODELAY.
    ///
    /// # Errors
    /// As `TcpStream::connect`, or if the handshake fails.
    pub async fn open(addr: SocketAddr) -> io::Result<Self> {
        Self::open_with_window(addr, 65_535).await
    }

    /// Connects with a stream window of `window` bytes.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with_window(addr: SocketAddr, window: u32) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (tap, seen) = Tap::new(stream);
        let (sender, connection) = ::h2::client::Builder::new()
            .initial_window_size(window)
            .initial_connection_window_size(1 << 30)
            .data_frame_budget(usize::MAX)
            .enable_push(false)
            .handshake(tap)
            .await
            .map_err(io::Error::other)?;
        let driven = Arc::clone(&seen);
        let driver = tokio::spawn(async move {
            // Each stream gets the error, and the tap has recorded the frames.
            let _ = connection.await;
            driven.close(End::Closed);
        });
        Ok(Self {
            sender,
            seen,
            driver,
            authority: addr.to_string(),
            patience: PATIENCE,
        })
    }

    /// Sets how long to wait for the server before the exchange counts as [`End::Stalled`]; [`PATIENCE`] at first.
    /// Applies to streams opened from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Sends a request, body included.
    ///
    /// # Errors
    /// How the connection ended, if it accepts no more requests.
    pub async fn send(&mut self, request: &Request) -> Result<Stream, End> {
        let ends = request.body.is_empty();
        let mut stream = self.start(request, ends).await?;
        if !ends {
            stream.send_data(request.body.clone(), true)?;
        }
        Ok(stream)
    }

    /// Sends the head of a request and leaves its body open: continue with [`Stream::send_data`].
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_open(&mut self, request: &Request) -> Result<Stream, End> {
        self.start(request, false).await
    }

    async fn start(&mut self, request: &Request, ends: bool) -> Result<Stream, End> {
        let mut head = http::Request::builder()
            .method(request.method.as_str())
            .uri(format!("http://{}{}", self.authority, request.target))
            .version(http::Version::HTTP_2);
        for (name, value) in &request.headers {
            head = head.header(name, value);
        }
        let head = head.body(()).map_err(|e| End::Malformed(e.to_string()))?;
        let ready = timeout(self.patience, self.sender.clone().ready())
            .await
            .map_err(|_| End::Stalled)?;
        let mut sender = ready.map_err(|e| stream::end_of(&e))?;
        let (response, upload) = sender
            .send_request(head, ends)
            .map_err(|e| stream::end_of(&e))?;
        Ok(Stream::new(
            response,
            upload,
            Arc::clone(&self.seen),
            self.patience,
        ))
    }

    /// Every frame the server has sent so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.seen.frames()
    }

    /// Waits for a frame that `wanted` accepts, including one that has already arrived.
    ///
    /// # Errors
    /// How the connection ended without it, or [`End::Stalled`].
    pub async fn frame(&self, mut wanted: impl FnMut(&Frame) -> bool) -> Result<Frame, End> {
        let search = self
            .seen
            .until(|seen| match seen.find(|frame| wanted(frame)) {
                Some(frame) => Some(Ok(frame)),
                None => seen.closed().map(Err),
            });
        timeout(self.patience, search)
            .await
            .unwrap_or(Err(End::Stalled))
    }

    /// Waits for the server's GOAWAY. Returns its last stream id and reason.
    ///
    /// A graceful shutdown (RFC 9113 section 6.8) sends two: first one with stream [`EVERY_STREAM`], and a round trip
    /// later one with the actual last stream. This returns the second one. A client without open streams closes after
    /// the first one, which is returned in this case.
    ///
    /// # Errors
    /// As [`frame`](Self::frame).
    pub async fn go_away(&self) -> Result<(u32, Reason), End> {
        let go_away = |frame: &Frame| match frame.kind {
            FrameKind::GoAway {
                last_stream,
                reason,
                ..
            } => Some((last_stream, reason)),
            _ => None,
        };
        let search = self.seen.until(|seen| {
            let last = seen.frames().iter().rev().find_map(go_away);
            match (last, seen.closed()) {
                (Some(last), Some(_)) => Some(Ok(last)),
                (Some(last), None) if last.0 != EVERY_STREAM => Some(Ok(last)),
                (_, closed) => closed.map(Err),
            }
        });
        timeout(self.patience, search)
            .await
            .unwrap_or(Err(End::Stalled))
    }

    /// Waits until the connection is closed: [`End::TcpReset`], [`End::Closed`] (by the server, or by the client,
    /// because no stream was left after a GOAWAY), or [`End::Stalled`] if it stays open.
    pub async fn closed(&self) -> End {
        timeout(self.patience, self.seen.until(Seen::closed))
            .await
            .unwrap_or(End::Stalled)
    }

    /// Stops reading from the socket, so that the server's writes fill the kernel's buffers and block.
    pub fn stop_reading(&self) {
        self.seen.pause(true);
    }

    /// Undoes [`stop_reading`](Self::stop_reading).
    pub fn resume_reading(&self) {
        self.seen.pause(false);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
