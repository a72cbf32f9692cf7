use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::Reason;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::Instant,
};

use crate::End;

/// A frame that the server sent (RFC 9113 section 4.1), as it was read from the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When its last byte arrived.
    pub at: Instant,
    /// The stream id; 0 is the connection.
    pub stream: u32,
    /// What it is.
    pub kind: FrameKind,
    /// Its flags, as on the wire.
    pub flags: u8,
    /// Length of its payload, without the nine bytes before it.
    pub length: usize,
}

/// The type of a [`Frame`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameKind {
    /// DATA.
    Data,
    /// HEADERS: a response's head, an interim head, or trailers.
    Headers,
    /// RST_STREAM with its reason.
    RstStream(Reason),
    /// SETTINGS: identifier and value pairs; an acknowledgement has none.
    Settings(Vec<(u16, u32)>),
    /// PING.
    Ping,
    /// GOAWAY.
    GoAway {
        /// The highest stream id that the server may have processed.
        last_stream: u32,
        /// The error code.
        reason: Reason,
        /// Debug data.
        debug: Bytes,
    },
    /// WINDOW_UPDATE with its increment.
    WindowUpdate(u32),
    /// CONTINUATION.
    Continuation,
    /// Any other type.
    Other(u8),
}

impl Frame {
    /// Whether this frame ends its stream (END_STREAM on DATA or HEADERS).
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, FrameKind::Data | FrameKind::Headers) && self.flags & 1 == 1
    }
}

/// What the tap has recorded.
#[derive(Debug, Default)]
pub(super) struct Seen {
    frames: Mutex<Vec<Frame>>,
    closed: Mutex<Option<End>>,
    changed: Notify,
    paused: Mutex<bool>,
    resumed: AtomicWaker,
}

impl Seen {
    pub(super) fn frames(&self) -> Vec<Frame> {
        self.frames.lock().clone()
    }

    pub(super) fn closed(&self) -> Option<End> {
        self.closed.lock().clone()
    }

    /// Stops or resumes reading from the socket.
    pub(super) fn pause(&self, paused: bool) {
        *self.paused.lock() = paused;
        self.resumed.wake();
    }

    /// Waits until `found` returns a value. It is called after every frame and at the end of the connection.
    pub(super) async fn until<T>(&self, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = found(self) {
                return found;
            }
            changed.await;
        }
    }

    /// The first frame that `wanted` accepts.
    pub(super) fn find(&self, wanted: impl FnMut(&&Frame) -> bool) -> Option<Frame> {
        self.frames.lock().iter().find(wanted).cloned()
    }

    /// When the next non-empty DATA frame of a stream arrived, starting with frame number `cursor`. The h2 crate
    /// returns these frames one by one.
    pub(super) fn data_arrival(&self, stream: u32, cursor: &mut usize) -> Option<Instant> {
        let frames = self.frames.lock();
        let data = |f: &Frame| f.stream == stream && f.kind == FrameKind::Data && f.length > 0;
        let at = frames.iter().skip(*cursor).position(data)? + *cursor;
        *cursor = at + 1;
        Some(frames[at].at)
    }

    pub(super) fn close(&self, end: End) {
        self.closed.lock().get_or_insert(end);
        self.changed.notify_waiters();
    }
}

/// A socket that records the frames it reads.
#[derive(Debug)]
pub(super) struct Tap {
    stream: TcpStream,
    seen: Arc<Seen>,
    parser: Parser,
}

impl Tap {
    pub(super) fn new(stream: TcpStream) -> (Self, Arc<Seen>) {
        let seen = Arc::new(Seen::default());
        (
            Self {
                stream,
                seen: Arc::clone(&seen),
                parser: Parser::default(),
            },
            seen,
        )
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.seen.resumed.register(cx.waker());
        if *this.seen.paused.lock() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buf));
        match &read {
            Err(e) => this.seen.close(io::Error::from(e.kind()).into()),
            Ok(()) if buf.filled().len() == before => this.seen.close(End::Closed),
            Ok(()) => {
                let now = Instant::now();
                this.parser
                    .feed(&buf.filled()[before..], now, &mut this.seen.frames.lock());
                this.seen.changed.notify_waiters();
            }
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Parses frames from bytes that arrive in arbitrary pieces.
#[derive(Debug, Default)]
struct Parser {
    pending: Vec<u8>,
}

const HEADER: usize = 9;

impl Parser {
    fn feed(&mut self, bytes: &[u8], at: Instant, frames: &mut Vec<Frame>) {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let Some((payload, after)) = after.split_at_checked(length) else {
                break;
            };
            frames.push(Frame {
                at,
                stream: u31(&header[5..]),
                kind: kind(header[3], payload),
                flags: header[4],
                length,
            });
            rest = after;
        }
        let done = self.pending.len() - rest.len();
        self.pending.drain(..done);
    }
}

/// RFC 9113 section 6.
fn kind(code: u8, payload: &[u8]) -> FrameKind {
    match code {
        0 => FrameKind::Data,
        1 => FrameKind::Headers,
        3 if payload.len() == 4 => FrameKind::RstStream(Reason::from(u32_at(payload, 0))),
        4 => FrameKind::Settings(
            payload
                .chunks_exact(6)
                .map(|p| (u16::from_be_bytes([p[0], p[1]]), u32_at(p, 2)))
                .collect(),
        ),
        6 => FrameKind::Ping,
        7 if payload.len() >= 8 => FrameKind::GoAway {
            last_stream: u31(payload),
            reason: Reason::from(u32_at(payload, 4)),
            debug: Bytes::copy_from_slice(&payload[8..]),
        },
        8 if payload.len() == 4 => FrameKind::WindowUpdate(u31(payload)),
        9 => FrameKind::Continuation,
        other => FrameKind::Other(other),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Stream ids and window increments have 31 bits after a reserved one.
fn u31(bytes: &[u8]) -> u32 {
    u32_at(bytes, 0) & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SETTINGS, DATA with END_STREAM, RST_STREAM, GOAWAY with debug data.
    const WIRE: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\xc8\
        \0\0\x03\0\x01\0\0\0\x01abc\
        \0\0\x04\x03\0\0\0\0\x03\0\0\0\x08\
        \0\0\x0a\x07\0\0\0\0\0\x80\0\0\x05\0\0\0\x0bhi";

    #[tokio::test]
    async fn frames_are_found_however_the_bytes_are_cut() {
        let at = Instant::now();
        let mut whole = Vec::new();
        Parser::default().feed(WIRE, at, &mut whole);
        let kinds: Vec<_> = whole
            .iter()
            .map(|frame| (frame.stream, frame.kind.clone()))
            .collect();
        let go_away = FrameKind::GoAway {
            last_stream: 5,
            reason: Reason::ENHANCE_YOUR_CALM,
            debug: "hi".into(),
        };
        let expected = [
            (0, FrameKind::Settings(vec![(3, 200)])),
            (1, FrameKind::Data),
            (3, FrameKind::RstStream(Reason::CANCEL)),
            (0, go_away),
        ];
        assert_eq!(kinds, expected);
        assert!(whole[1].ends_stream());
        for cut in 0..=WIRE.len() {
            let (mut parser, mut frames) = (Parser::default(), Vec::new());
            parser.feed(&WIRE[..cut], at, &mut frames);
            parser.feed(&WIRE[cut..], at, &mut frames);
            assert_eq!(frames, whole, "cut at {cut}");
        }
    }
}
