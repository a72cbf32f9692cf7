//! Whether the last record has passed.

use memchr::memmem::Finder;

use super::{LastRecord, Record};
use crate::boundary::Scanner;

/// Looks for the last record in a stream that is split anywhere.
///
/// A chunk of whole records is not searched if its last bytes show that the last record is not in it. Otherwise it is
/// searched for the needles, and only records that contain a needle are parsed. A record that comes in several chunks
/// is joined first.
#[derive(Debug)]
pub(crate) struct Detector {
    last: LastRecord,
    scanner: Scanner,
    /// Whether the next chunk begins with a record, in the middle of the stream.
    between: bool,
    needles: Vec<Finder<'static>>,
    /// The start of a record that has not ended. Empty if there is none, or if the record is too long to be kept.
    open: Vec<u8>,
    /// Set if the record that has not ended is too long to be kept: whether it contains a needle.
    too_long: Option<bool>,
    /// Whether the client can resume the stream, which may then end without its last record.
    excused: bool,
}

impl Detector {
    /// How much of a record is kept.
    const CAP: usize = 256 * 1024;

    pub(super) fn new(last: LastRecord, format: crate::RecordFormat) -> Self {
        let needles = last.needles.iter().filter(|needle| !needle.is_empty());
        Self {
            needles: needles.map(|needle| Finder::new(*needle)).collect(),
            last,
            scanner: Scanner::new(format),
            between: false,
            open: Vec::new(),
            too_long: None,
            excused: false,
        }
    }

    /// Fast path: returns true if the next chunk consists of whole records and its last bytes show that the last record
    /// is not among them. The chunk then counts as pushed.
    #[inline(always)]
    pub(crate) fn passes(&mut self, chunk: &[u8]) -> bool {
        // A chunk that ends with a record leaves the scanner where it is.
        self.between && (self.last.rules_out)(chunk)
    }

    /// Searches the next chunk. Returns whether it contains the last record. Later chunks then need not be searched.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> bool {
        let found = self.search(chunk);
        self.between = self.scanner.is_between();
        found
    }

    fn search(&mut self, chunk: &[u8]) -> bool {
        let whole = self.scanner.at_boundary() && self.scanner.takes_whole(chunk);
        if whole && !self.has_needle(chunk) {
            return false;
        }
        if whole {
            // The fast path has advanced the scanner past this chunk. Scan it again from its start, record by record.
            self.scanner = Scanner::new(self.scanner.format());
        }
        let mut scanner = self.scanner;
        let (mut from, mut found) = (0, false);
        for end in scanner.boundaries(chunk) {
            found |= self.ends_with(&chunk[from..end]);
            from = end;
        }
        self.scanner = scanner;
        self.keep(&chunk[from..]);
        found
    }

    /// Called with the bytes that end a record. Returns whether that is the last record of the stream.
    fn ends_with(&mut self, bytes: &[u8]) -> bool {
        if self.open.is_empty() && self.too_long.is_none() {
            return self.is_last(bytes);
        }
        self.keep(bytes);
        let open = std::mem::take(&mut self.open);
        match self.too_long.take() {
            Some(found) => found,
            None => self.is_last(&open),
        }
    }

    fn is_last(&mut self, bytes: &[u8]) -> bool {
        if !self.has_needle(bytes) {
            return false;
        }
        let record = Record::new(self.scanner.format(), bytes);
        self.excused |= self.last.resumable && record.has_id();
        (self.last.is_last)(&record)
    }

    fn has_needle(&self, bytes: &[u8]) -> bool {
        self.needles
            .iter()
            .any(|needle| needle.find(bytes).is_some())
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(found) = self.too_long {
            self.too_long = Some(found || self.has_needle(bytes));
            return;
        }
        self.open.extend_from_slice(bytes);
        if self.open.len() > Self::CAP {
            let open = std::mem::take(&mut self.open);
            self.too_long = Some(self.has_needle(&open));
        }
    }

    /// Called when the body ends. Returns whether it may end here: its last bytes are the last record without its blank
    /// line, or the client can resume the stream.
    pub(crate) fn finish(&mut self) -> bool {
        self.ends_with(b"") || self.excused
    }
}
