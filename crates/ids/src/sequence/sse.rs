//! `id:` lines for server-sent events.

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::{memchr, memchr2};
use tower_stream_core::RequestId;

/// Writes an `id:` line into each event that has none.
///
/// It looks at the start of each line, in the one pass that it takes anyway: the blank line that ends an event is
/// where the stamp goes, so no byte has to wait for what follows it.
#[derive(Debug)]
pub(super) struct SseStamper {
    request_id: Option<RequestId>,
    /// the number of the last event that has ended
    events: u64,
    /// the open block has a `data` line: it will be an event
    has_data: bool,
    /// .. an `id` line
    has_id: bool,
    line: CutLine,
    /// the last byte was a CR: a LF now still belongs to that line end
    after_cr: bool,
    /// no line has ended yet: the first may begin with a byte order mark
    first_line: bool,
}

/// The start of a line that began in an earlier chunk, as much of it as tells its field.
#[derive(Debug, Default)]
struct CutLine {
    start: [u8; CutLine::LEN],
    len: usize,
    /// it has a NUL somewhere
    nul: bool,
}

const BOM: &[u8] = b"\xef\xbb\xbf";

impl CutLine {
    /// A byte order mark, `data` and a colon.
    const LEN: usize = 8;

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
            line: CutLine::default(),
            after_cr: false,
            first_line: true,
        }
    }

    /// The next chunk with its stamps; the same `Bytes` where there are none.
    pub(super) fn stamp(&mut self, chunk: Bytes) -> Bytes {
        let bytes = &chunk[..];
        let mut out = BytesMut::new();
        let mut copied = 0;
        let mut line_start = 0;
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            line_start = usize::from(bytes[0] == b'\n');
        }
        while let Some(length) = memchr2(b'\n', b'\r', &bytes[line_start..]) {
            let line_end = line_start + length;
            if self.end_line(&bytes[line_start..line_end]) {
                // an event's blank line cannot have begun in an earlier chunk, or it would not be blank
                if out.is_empty() {
                    out.reserve(bytes.len() + bytes.len() / 8 + 64);
                }
                out.put_slice(&bytes[copied..line_start]);
                copied = line_start;
                self.write_id(&mut out);
            }
            line_start = line_end + 1;
            if bytes[line_end] == b'\r' {
                match bytes.get(line_start) {
                    Some(b'\n') => line_start += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
        }
        if line_start < bytes.len() {
            self.line.push(&bytes[line_start..]);
        }
        if out.is_empty() {
            return chunk;
        }
        out.put_slice(&bytes[copied..]);
        out.freeze()
    }

    /// Takes note of a line, of which `rest` stands in this chunk. True when it ends an event that needs a stamp.
    fn end_line(&mut self, rest: &[u8]) -> bool {
        let cut = self.line.len > 0;
        if cut {
            self.line.push(rest);
        }
        let line = if cut {
            &self.line.start[..self.line.len]
        } else {
            rest
        };
        let line = match line.strip_prefix(BOM) {
            Some(line) if self.first_line => line,
            _ => line,
        };
        self.first_line = false;
        let mut stamp = false;
        match line {
            [] => {
                stamp = self.has_data && !self.has_id;
                self.events = self.events.saturating_add(u64::from(self.has_data));
                self.has_data = false;
                self.has_id = false;
            }
            b"data" | [b'd', b'a', b't', b'a', b':', ..] => self.has_data = true,
            b"id" | [b'i', b'd', b':', ..] => {
                // an id with a NUL in it is ignored by clients
                let nul = if cut {
                    self.line.nul
                } else {
                    memchr(0, line).is_some()
                };
                self.has_id |= !nul;
            }
            _ => {}
        }
        if cut {
            self.line = CutLine::default();
        }
        stamp
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
