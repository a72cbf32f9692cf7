use std::{error::Error, fmt, io, time::Duration};

use bytes::Bytes;
use h2::Reason;
use http::Version;
use tokio::time::Instant;

/// Status line and headers, as received.
#[derive(Debug, Clone)]
pub struct Head {
    /// The version of the response.
    pub version: Version,
    /// The status code.
    pub status: u16,
    /// The reason phrase; HTTP/2 has none.
    pub reason: String,
    /// The headers.
    pub headers: Headers,
}

/// Header or trailer fields. HTTP/1.x: in the order and case received. HTTP/2: lower case, equal names kept in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of `name` (any case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of `name` (any case), in order.
    pub fn all<'h>(&'h self, name: &str) -> impl Iterator<Item = &'h str> {
        self.0
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&http::HeaderMap> for Headers {
    fn from(map: &http::HeaderMap) -> Self {
        let text =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Self(
            map.iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
        )
    }
}

/// A piece of a body: one HTTP/1.1 chunk, one non-empty HTTP/2 DATA frame, or the result of one read if the framing has
/// no pieces (Content-Length, HTTP/1.0).
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Its bytes, without framing.
    pub data: Bytes,
    /// When its last byte was read from the socket.
    pub at: Instant,
}

/// A whole exchange, as far as it got.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status line and headers.
    pub head: Head,
    /// The body's pieces, with arrival times.
    pub chunks: Vec<Chunk>,
    /// Trailer fields, if any.
    pub trailers: Headers,
    /// How it ended.
    pub end: End,
    /// When the request had been written.
    pub sent_at: Instant,
    /// HTTP/1.x: every byte of this response from its status line on, framing included. Empty for HTTP/2, where
    /// [`h2::Connection::frames`](crate::h2::Connection::frames) shows the framing.
    pub raw: Bytes,
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The first value of a header (any case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)
    }

    /// The first value of a trailer (any case).
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.get(name)
    }

    /// The body, pieces joined.
    pub fn body(&self) -> Bytes {
        let pieces: Vec<&[u8]> = self.chunks.iter().map(|chunk| &*chunk.data).collect();
        pieces.concat().into()
    }

    /// The body as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn text(&self) -> String {
        String::from_utf8(self.body().to_vec()).expect("the body is UTF-8")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is not JSON; the message shows the body.
    pub fn json(&self) -> serde_json::Value {
        let body = self.body();
        serde_json::from_slice(&body)
            .unwrap_or_else(|e| panic!("{e} in {:?}", String::from_utf8_lossy(&body)))
    }

    /// Time between the arrivals of the first and the last piece. It is zero if all arrived together, which reveals a
    /// paced stream that was buffered on its way.
    pub fn spread(&self) -> Duration {
        match (self.chunks.first(), self.chunks.last()) {
            (Some(first), Some(last)) => last.at - first.at,
            _ => Duration::ZERO,
        }
    }
}

/// How an exchange ended. Returned as an error when it ended before a response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The response has no body: HEAD, 101, 204, 304, or a final HTTP/1.1 response to CONNECT.
    NoBody,
    /// HTTP/1.x: the declared Content-Length arrived.
    Length,
    /// HTTP/1.1: the last chunk and the trailer section arrived.
    LastChunk,
    /// HTTP/2: END_STREAM.
    EndStream,
    /// HTTP/1.x: the connection closed, which is the only end of this framing. Complete or aborted: the client cannot
    /// tell.
    Closed,
    /// The connection closed before the end of the framing.
    Truncated,
    /// The connection was reset (TCP RST).
    TcpReset,
    /// HTTP/2: the server sent RST_STREAM.
    Reset(Reason),
    /// HTTP/2: a GOAWAY from the server ended this stream.
    GoAway(Reason),
    /// No byte arrived for the client's patience; the connection is still open.
    Stalled,
    /// The response violates the protocol, as an HTTP/2 stream that ends before its Content-Length does (RFC 9113
    /// section 8.1.1).
    Malformed(String),
}

impl End {
    /// Returns whether the client knows that the response is complete.
    pub fn is_whole(&self) -> bool {
        matches!(
            self,
            Self::NoBody | Self::Length | Self::LastChunk | Self::EndStream
        )
    }

    /// Returns whether the client knows that the response is incomplete.
    pub fn is_cut(&self) -> bool {
        !self.is_whole() && !matches!(self, Self::Closed | Self::Stalled)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBody => f.write_str("no body was due"),
            Self::Length => f.write_str("the declared length arrived"),
            Self::LastChunk => f.write_str("the last chunk arrived"),
            Self::EndStream => f.write_str("END_STREAM"),
            Self::Closed => f.write_str("closed: whole or cut, the framing cannot tell"),
            Self::Truncated => f.write_str("closed too early"),
            Self::TcpReset => f.write_str("connection reset"),
            Self::Reset(reason) => write!(f, "RST_STREAM {reason:?}"),
            Self::GoAway(reason) => write!(f, "GOAWAY {reason:?}"),
            Self::Stalled => f.write_str("nothing more came"),
            Self::Malformed(why) => write!(f, "malformed: {why}"),
        }
    }
}

impl Error for End {}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, UnexpectedEof,
        };
        match error.kind() {
            ConnectionReset | ConnectionRefused | ConnectionAborted | BrokenPipe => Self::TcpReset,
            UnexpectedEof => Self::Truncated,
            _ => Self::Malformed(error.to_string()),
        }
    }
}
