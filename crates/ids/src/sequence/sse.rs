//! Adds `id:` lines to server-sent events.

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr;
use tower_stream_core::{
    RecordFormat, RequestId,
    boundary::{Line, Scanner},
};

/// Inserts an `id:` line into each event that has none.
///
/// The line is inserted before the blank line that ends the event, so no byte is held back.
#[derive(Debug)]
pub(super) struct SseStamper {
    request_id: Option<RequestId>,
    /// Number of the last event that has ended.
    events: u64,
    /// The open block has a `data` line, so it is an event.
    has_data: bool,
    /// The open block has an `id` line.
    has_id: bool,
    scanner: Scanner,
    open: OpenLine,
}

/// The start of a line that began in an earlier chunk: the bytes needed to recognize its field.
#[derive(Debug, Default)]
struct OpenLine {
    start: [u8; OpenLine::LEN],
    len: usize,
    /// Whether the line contains a NUL.
    nul: bool,
}

impl OpenLine {
    const LEN: usize = b"data:".len();

    fn push(&mut self, piece: &[u8]) {
        let taken = piece.len().min(Self::LEN - self.len);
        self.start[self.len..][..taken].copy_from_slice(&piece[..taken]);
        self.len += taken;
        self.nul |= memchr(0, piece).is_some();
    }
}

impl SseStamper {
    /// Numbers the first event `before + 1`.
    pub(super) fn new(request_id: Option<RequestId>, before: u64) -> Self {
        Self {
            request_id,
            events: before,
            has_data: false,
            has_id: false,
            scanner: Scanner::new(RecordFormat::Sse),
            open: OpenLine::default(),
        }
    }

    /// Returns the next chunk with the inserted lines. Returns the same `Bytes` if nothing is inserted.
    pub(super) fn stamp(&mut self, chunk: Bytes) -> Bytes {
        let mut out = BytesMut::new();
        let mut copied = 0;
        let mut scanner = self.scanner;
        let mut lines = scanner.lines(&chunk);
        for line in lines.by_ref() {
            if self.end_line(&line) {
                if out.is_empty() {
                    out.reserve(chunk.len() + chunk.len() / 8 + 64);
                }
                // A blank line is a single line end, which is never split, so it starts in this chunk.
                out.put_slice(&chunk[copied..line.start]);
                copied = line.start;
                self.write_id(&mut out);
            }
        }
        self.open.push(lines.rest());
        self.scanner = scanner;
        if out.is_empty() {
            return chunk;
        }
        out.put_slice(&chunk[copied..]);
        out.freeze()
    }

    /// Processes a line. Returns true if it ends an event that needs an id.
    #[inline]
    fn end_line(&mut self, line: &Line<'_>) -> bool {
        if line.ends_record {
            let stamp = self.has_data && !self.has_id;
            self.events = self.events.saturating_add(u64::from(self.has_data));
            self.has_data = false;
            self.has_id = false;
            return stamp;
        }
        if line.continues {
            let mut open = std::mem::take(&mut self.open);
            open.push(line.text);
            self.field(&open.start[..open.len], open.nul);
        } else {
            self.field(line.text, false);
        }
        false
    }

    /// Processes the field of a line. `nul` says that a NUL follows this text.
    #[inline]
    fn field(&mut self, line: &[u8], nul: bool) {
        match line {
            b"data" | [b'd', b'a', b't', b'a', b':', ..] => self.has_data = true,
            // Clients ignore an id that contains a NUL.
            b"id" | [b'i', b'd', b':', ..] => self.has_id |= !nul && memchr(0, line).is_none(),
            _ => {}
        }
    }

    fn write_id(&self, out: &mut BytesMut) {
        let events = self.events;
        // Writing to a growable buffer cannot fail.
        let _ = match &self.request_id {
            Some(id) => writeln!(out, "id: {id}-{events}"),
            None => writeln!(out, "id: {events}"),
        };
    }
}
