//! Releasing whole records only.

use bytes::{Bytes, BytesMut};

use crate::{RecordFormat, boundary::Scanner};

/// Lets the whole records of a stream through and holds an open one until it ends.
///
/// A layer that may have to write a last record of its own (an error, a farewell) must never have sent half of
/// another: for a client of server-sent events the two would become one event. What is held is dropped with
/// [`RecordHold::discard`] when the stream fails, and released by [`RecordHold::finish`] when it ends well.
///
/// A chunk that ends with a record passes as it is, neither copied nor delayed. A record longer than the cap is let
/// through open; until it ends nothing may be written, see [`RecordHold::is_clean`].
///
/// ```
/// use bytes::Bytes;
/// use tower_stream_core::{RecordFormat, RecordHold};
///
/// let mut hold = RecordHold::new(RecordFormat::Lines, 64 * 1024);
/// assert_eq!(hold.push(Bytes::from("{\"a\":1}\n{\"b\"")), Some(Bytes::from("{\"a\":1}\n")));
/// assert_eq!(hold.push(Bytes::from(":2")), None);
/// assert_eq!(hold.push(Bytes::from("}\n")), Some(Bytes::from("{\"b\":2}\n")));
/// ```
#[derive(Debug)]
pub struct RecordHold {
    scanner: Scanner,
    held: BytesMut,
    cap: usize,
    /// a record over the cap is being let through
    open: bool,
}

impl RecordHold {
    /// The usual cap: 64 KiB.
    pub const DEFAULT_CAP: usize = 64 * 1024;

    /// Holds at most `cap` bytes of an open record.
    #[must_use]
    pub fn new(format: RecordFormat, cap: usize) -> Self {
        Self {
            scanner: Scanner::new(format),
            held: BytesMut::new(),
            cap,
            open: false,
        }
    }

    /// Takes the next chunk; gives what can be sent now, if anything. An empty chunk passes as it is.
    #[inline]
    pub fn push(&mut self, chunk: Bytes) -> Option<Bytes> {
        match self.passes(&chunk) {
            true => Some(chunk),
            false => self.push_any(chunk),
        }
    }

    /// Whether the next chunk can be sent as it is; then it counts as sent. One that cannot has to be given to
    /// [`RecordHold::push`]. Nearly all chunks of nearly all streams do, and need not be moved in and out.
    #[inline]
    #[must_use]
    pub fn passes(&mut self, chunk: &[u8]) -> bool {
        let passes = self.held.is_empty() && self.scanner.takes_whole(chunk);
        if passes {
            self.open = false;
        }
        passes
    }

    fn push_any(&mut self, mut chunk: Bytes) -> Option<Bytes> {
        if chunk.is_empty() {
            return Some(chunk);
        }
        let boundary = self.scanner.last_boundary(&chunk);
        if boundary == Some(chunk.len()) && self.held.is_empty() {
            self.open = false;
            return Some(chunk);
        }
        let (whole, rest) = match boundary {
            Some(at) => {
                self.open = false;
                let rest = chunk.split_off(at);
                (chunk, rest)
            }
            None if self.open => return Some(chunk),
            None => (Bytes::new(), chunk),
        };
        let mut ready = whole;
        if !self.held.is_empty() && !ready.is_empty() {
            self.held.extend_from_slice(&ready);
            ready = self.held.split().freeze();
        }
        if self.held.len() + rest.len() > self.cap {
            self.open = true;
            let mut all = BytesMut::with_capacity(ready.len() + self.held.len() + rest.len());
            all.extend_from_slice(&ready);
            all.extend_from_slice(&self.held.split());
            all.extend_from_slice(&rest);
            ready = all.freeze();
        } else if !rest.is_empty() {
            self.held.extend_from_slice(&rest);
        }
        (!ready.is_empty()).then_some(ready)
    }

    /// The stream ended well: gives what is still held, an unended record that the producer meant as its last.
    pub fn finish(&mut self) -> Option<Bytes> {
        (!self.held.is_empty()).then(|| self.held.split().freeze())
    }

    /// The stream failed: drops what is held.
    pub fn discard(&mut self) {
        self.held.clear();
    }

    /// Whether what was given out so far ends with a whole record, so that another may follow.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.open
    }

    pub(crate) const fn format(&self) -> RecordFormat {
        self.scanner.format()
    }

    /// How many bytes are held: for `size_hint`.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sse() -> RecordHold {
        RecordHold::new(RecordFormat::Sse, 16)
    }

    #[test]
    fn a_whole_event_passes_without_a_copy() {
        let chunk = Bytes::from("data: 1\n\n");
        let passed = sse().push(chunk.clone()).unwrap();
        assert_eq!(
            (passed.as_ptr(), passed.len()),
            (chunk.as_ptr(), chunk.len())
        );
    }

    #[test]
    fn half_an_event_is_held_and_dropped_on_failure() {
        let mut hold = sse();
        assert_eq!(
            hold.push(Bytes::from("data: 1\n\ndata")),
            Some(Bytes::from("data: 1\n\n"))
        );
        assert_eq!(hold.held(), 4);
        hold.discard();
        assert!(hold.is_clean());
        assert_eq!(hold.finish(), None);
    }

    #[test]
    fn a_clean_end_releases_what_was_held() {
        let mut hold = sse();
        assert_eq!(hold.push(Bytes::from("data: 1\n")), None);
        assert_eq!(hold.finish(), Some(Bytes::from("data: 1\n")));
    }

    #[test]
    fn over_the_cap_it_lets_go_until_the_record_ends() {
        let mut hold = sse();
        assert_eq!(hold.push(Bytes::from("data: 0123")), None);
        assert_eq!(hold.push(Bytes::from("456789")), None);
        assert_eq!(
            hold.push(Bytes::from("a")),
            Some(Bytes::from("data: 0123456789a"))
        );
        assert!(!hold.is_clean());
        assert_eq!(hold.push(Bytes::from("b")), Some(Bytes::from("b")));
        assert_eq!(hold.push(Bytes::from("\n\nda")), Some(Bytes::from("\n\n")));
        assert!(hold.is_clean());
        assert_eq!(hold.finish(), Some(Bytes::from("da")));
    }

    #[test]
    fn a_long_chunk_with_a_long_open_tail_keeps_its_order() {
        let mut hold = sse();
        assert_eq!(hold.push(Bytes::from("a\n\nb")), Some(Bytes::from("a\n\n")));
        let all = "c\n\n0123456789abcdef0";
        assert_eq!(
            hold.push(Bytes::from(all)),
            Some(Bytes::from(format!("b{all}")))
        );
        assert!(!hold.is_clean());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_what_is_out_ends_with_a_record_or_is_not_clean(
            chunks in proptest::collection::vec("[ab\r\n]{0,12}", 0..12),
        ) {
            let mut hold = sse();
            let mut out = Vec::new();
            for chunk in &chunks {
                if let Some(ready) = hold.push(Bytes::from(chunk.clone())) {
                    out.extend_from_slice(&ready);
                }
                let mut scanner = Scanner::new(RecordFormat::Sse);
                scanner.last_boundary(&out);
                prop_assert_eq!(scanner.at_boundary(), hold.is_clean());
            }
            out.extend(hold.finish().unwrap_or_default());
            prop_assert_eq!(out, chunks.concat().into_bytes());
        }
    }
}
