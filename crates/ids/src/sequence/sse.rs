//! `id:` lines for server-sent events.

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr;
use tower_stream_core::{
    RecordFormat, RequestId,
    boundary::{Line, Scanner},
};

/// Writes an `id:` line into each event that has none.
///
/// The line goes before the blank line that ends the event, so no byte has to wait for what follows it.
#[derive(Debug)]
pub(super) struct SseStamper {
    request_id: Option<RequestId>,
    /// The number of the last event that has ended.
    events: u64,
    /// The open block has a `data` line: it will be an event.
    has_data: bool,
    /// The open block has an `id` line.
    has_id: bool,
    scanner: Scanner,
    open: OpenLine,
}

/// The start of a line that began in an earlier chunk, as much of it as tells its field.
#[derive(Debug, Default)]
struct OpenLine {
    start: [u8; OpenLine::LEN],
    len: usize,
    /// It has a NUL somewhere.
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
    /// The first event gets the number behind `before`.
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

    /// The next chunk with its stamps; the same `Bytes` where there are none.
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
                // a blank line is whole in one chunk, so it starts in this one
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

    /// Takes note of a line. True when it ends an event that needs a stamp.
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

    /// Takes note of the field of a line, which has a NUL behind this text if `nul`.
    #[inline]
    fn field(&mut self, line: &[u8], nul: bool) {
        match line {
            b"data" | [b'd', b'a', b't', b'a', b':', ..] => self.has_data = true,
            // an id with a NUL in it is ignored by clients
            b"id" | [b'i', b'd', b':', ..] => self.has_id |= !nul && memchr(0, line).is_none(),
            _ => {}
        }
    }

    fn write_id(&self, out: &mut BytesMut) {
        let events = self.events;
        // writing to a buffer that grows cannot fail
        let _ = match &self.request_id {
            Some(id) => writeln!(out, "id: {id}-{events}"),
            None => writeln!(out, "id: {events}"),
        };
    }
}
