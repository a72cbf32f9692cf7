//! Whether the last record has passed.

use memchr::memmem::Finder;

use super::{LastRecord, Record};
use crate::boundary::Scanner;

/// Looks for the last record in a stream that is cut anywhere.
///
/// A chunk of whole records whose last bytes do not rule the record out is searched for the needles, and only a record with
/// a needle is read. A record that comes in several chunks is put together first.
#[derive(Debug)]
pub(crate) struct Detector {
    last: LastRecord,
    scanner: Scanner,
    needles: Vec<Finder<'static>>,
    /// A record that has not ended, as far as it is kept.
    open: Vec<u8>,
    /// It is too long to be kept. Whether a needle is in it.
    too_long: Option<bool>,
    /// The client can come back for the rest.
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
            open: Vec::new(),
            too_long: None,
            excused: false,
        }
    }

    /// Whether the next chunk consists of whole records and the last one is not in it, as its end shows. If so, it counts as
    /// pushed.
    #[inline(always)]
    pub(crate) fn passes(&mut self, chunk: &[u8]) -> bool {
        self.scanner.at_boundary()
            && (self.last.rules_out)(chunk)
            && self.scanner.takes_whole(chunk)
    }

    /// Goes over the next chunk. True: the last record is in it, and no chunk needs to be looked at any more.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> bool {
        let whole = self.scanner.at_boundary() && self.scanner.takes_whole(chunk);
        if whole && !self.has_needle(chunk) {
            return false;
        }
        if whole {
            // from the start again, in records of its own
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

    /// A record ends with these bytes. Whether it is the last one.
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

    /// The stream ends. Whether it may, because a record that has not been ended is the last one, or because the client can
    /// come back for the rest.
    pub(crate) fn finish(&mut self) -> bool {
        self.ends_with(b"") || self.excused
    }
}
