//! Adds a `sequence_id` to the objects of a JSON stream.

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr;

/// Starts a text in a JSON text sequence (RFC 7464 section 2.2). Cannot occur inside of one.
const RECORD_SEPARATOR: u8 = 0x1e;

/// Inserts a first member `sequence_id` into each object.
///
/// It parses an object only up to the first byte after the brace. This byte distinguishes an object with members from
/// an empty one and from malformed input. The member is written before it, so no byte is held back.
#[derive(Debug)]
pub(super) struct JsonStamper {
    /// The byte before each record. It does not occur inside of one.
    separator: u8,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first byte of a record.
    Start,
    /// After the brace of an object.
    Open,
    /// Anywhere else: skips to the next record.
    Skip,
}

impl JsonStamper {
    /// JSON lines: a record starts after a LF.
    pub(super) fn lines() -> Self {
        Self {
            separator: b'\n',
            state: State::Start,
        }
    }

    /// JSON text sequences (RFC 7464): a record starts after 0x1E and may span several lines.
    pub(super) fn text_sequence() -> Self {
        Self {
            separator: RECORD_SEPARATOR,
            state: State::Skip,
        }
    }

    /// Returns the next chunk with the inserted members, each with a number from `draw`. Returns the same `Bytes` if
    /// nothing is inserted.
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
                    // Writing to a growable buffer cannot fail.
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
