//! A `sequence_id` for the objects of a JSON stream.

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr;

/// The byte that begins a text of a JSON text sequence (RFC 7464 section 2.2). It cannot occur inside of one.
const RECORD_SEPARATOR: u8 = 0x1e;

/// Puts a first member `sequence_id` into each object.
///
/// It reads no further into an object than to the byte after the brace, which tells an object with members, an empty
/// one and garbage apart. The member is written before that byte, so no byte has to wait.
#[derive(Debug)]
pub(super) struct JsonStamper {
    /// what comes before a record: every other byte is inside of one
    separator: u8,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte of a record.
    Start,
    /// Behind the brace of an object.
    Open,
    /// Anywhere else: skip to the next record.
    Skip,
}

impl JsonStamper {
    /// For JSON lines: a record begins after a LF.
    pub(super) fn lines() -> Self {
        Self {
            separator: b'\n',
            state: State::Start,
        }
    }

    /// For JSON text sequences (RFC 7464): a record begins after 0x1E, and may have many lines.
    pub(super) fn text_sequence() -> Self {
        Self {
            separator: RECORD_SEPARATOR,
            state: State::Skip,
        }
    }

    /// The next chunk with its stamps, each a number of its own from `draw`; the same `Bytes` where there are none.
    pub(super) fn stamp(&mut self, chunk: Bytes, mut draw: impl FnMut() -> u64) -> Bytes {
        let bytes = &chunk[..];
        let mut out = BytesMut::new();
        let mut copied = 0;
        let mut at = 0;
        while at < bytes.len() {
            if self.state == State::Skip {
                let Some(length) = memchr(self.separator, &bytes[at..]) else {
                    break;
                };
                at += length + 1;
                self.state = State::Start;
                continue;
            }
            match (self.state, bytes[at]) {
                (_, b' ' | b'\t' | b'\r' | b'\n') => {}
                (_, byte) if byte == self.separator => self.state = State::Start,
                (_, b'{') => self.state = State::Open,
                (State::Open, byte @ (b'"' | b'}')) => {
                    if out.is_empty() {
                        out.reserve(bytes.len() + bytes.len() / 8 + 64);
                    }
                    out.put_slice(&bytes[copied..at]);
                    copied = at;
                    let comma = if byte == b'"' { "," } else { "" };
                    // writing to a buffer that grows cannot fail
                    let _ = write!(out, "\"sequence_id\":{}{comma}", draw());
                    self.state = State::Skip;
                }
                _ => self.state = State::Skip,
            }
            at += 1;
        }
        if out.is_empty() {
            return chunk;
        }
        out.put_slice(&bytes[copied..]);
        out.freeze()
    }
}
