//! Passes on only complete records.

use bytes::{Bytes, BytesMut};

use crate::{RecordFormat, boundary::Scanner};

/// Passes on the complete records of a stream, and holds back an incomplete one until it ends.
///
/// A layer that may write a last record of its own (an error, or the last event of a drain) must not do so after half
/// of another record: a client of server-sent events would merge the two. [`RecordHold::discard`] drops the held bytes
/// when the stream fails, and [`RecordHold::finish`] releases them when it ends normally.
///
/// A chunk that ends with a record passes without being copied or delayed. A record longer than the cap is passed on
/// while it is incomplete; until it ends nothing may be written, see [`RecordHold::is_clean`].
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
    /// Whether a record above the cap is being passed on.
    open: bool,
}

impl RecordHold {
    /// The default cap: 64 KiB.
    pub const DEFAULT_CAP: usize = 64 * 1024;

    /// Holds back at most `cap` bytes of an incomplete record.
    #[must_use]
    pub fn new(format: RecordFormat, cap: usize) -> Self {
        Self {
            scanner: Scanner::new(format),
            held: BytesMut::new(),
            cap,
            open: false,
        }
    }

    /// Takes the next chunk. Returns what can be sent now, if anything. An empty chunk passes unchanged.
    #[inline]
    pub fn push(&mut self, chunk: Bytes) -> Option<Bytes> {
        match self.passes(&chunk) {
            true => Some(chunk),
            false => self.push_any(chunk),
        }
    }

    /// Returns whether the next chunk can be sent unchanged; if so, it counts as sent. Otherwise pass it to
    /// [`RecordHold::push`]. Fast path: nearly all chunks pass, and need not be moved in and out.
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

    /// Call this when the stream ended normally. Returns the held bytes: an incomplete record, which the producer
    /// intended as its last.
    pub fn finish(&mut self) -> Option<Bytes> {
        (!self.held.is_empty()).then(|| self.held.split().freeze())
    }

    /// Call this when the stream failed. Drops the held bytes.
    pub fn discard(&mut self) {
        self.held.clear();
    }

    /// Returns whether the output so far ends with a complete record, so that another one may follow.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.open
    }

    pub(crate) const fn format(&self) -> RecordFormat {
        self.scanner.format()
    }

    /// Number of held bytes, for `size_hint`.
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
