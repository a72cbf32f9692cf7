//! Finds the ends of lines and records in a stream that is split into arbitrary chunks.
//!
//! A client of server-sent events dispatches an event at its blank line, and a client of JSON lines reads a line at its
//! LF. A layer that writes into such a stream must know whether it is between two records, however the stream is split:
//! an event may come in ten chunks, and a chunk may end inside of a CRLF.
//!
//! ```
//! use tower_stream_core::{RecordFormat, boundary::Scanner};
//!
//! let mut scanner = Scanner::new(RecordFormat::Sse);
//! assert!(scanner.at_boundary());
//! assert_eq!(scanner.last_boundary(b"data: 1\r\n\r\ndata: 2\r"), Some(11));
//! assert!(!scanner.at_boundary());
//! // the LF belongs to the line end that the CR started; the blank line follows
//! assert_eq!(scanner.boundaries(b"\n\ndata").collect::<Vec<_>>(), [2]);
//! ```

use memchr::{memchr, memchr2};

use crate::RecordFormat;

/// Tracks the lines and the record boundaries of one stream, chunk by chunk.
///
/// A boundary is the offset of the first byte after a record: after the blank line of an SSE event (WHATWG HTML section
/// 9.2.6; each further blank line is another boundary), or after the LF of a line. The start of a stream is a boundary
/// too. If a chunk ends inside of the CRLF that ends an event, the boundary is before the LF, which then belongs to no
/// record.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    format: RecordFormat,
    state: State,
}

/// Returns whether the last bytes of a chunk show that it ends with a record, whatever precedes the chunk.
#[inline(always)]
pub(crate) fn ends_with_record(format: RecordFormat, chunk: &[u8]) -> bool {
    match format {
        RecordFormat::Lines => chunk.ends_with(b"\n"),
        RecordFormat::Sse => chunk.ends_with(b"\n\n") || chunk.ends_with(b"\r\n\r\n"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of an event stream, after this many of the three bytes of a byte order mark.
    Mark(u8),
    /// Before the first byte of a line. `after_cr`: a LF that follows belongs to the previous line end.
    LineStart { boundary: bool, after_cr: bool },
    /// Inside of a line.
    Line,
}

const BOM: &[u8] = b"\xef\xbb\xbf";

const BOUNDARY: State = State::LineStart {
    boundary: true,
    after_cr: false,
};

impl Scanner {
    pub(crate) const fn format(&self) -> RecordFormat {
        self.format
    }

    /// Creates a scanner at the start of a stream.
    #[must_use]
    pub fn new(format: RecordFormat) -> Self {
        let state = match format {
            RecordFormat::Sse => State::Mark(0),
            RecordFormat::Lines => BOUNDARY,
        };
        Self { format, state }
    }

    /// Returns whether no record is open, so that the next byte starts a new one.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        matches!(
            self.state,
            State::Mark(0) | State::LineStart { boundary: true, .. }
        )
    }

    /// Returns whether a record begins here, and nothing else: neither a byte order mark nor the LF of a split CRLF.
    pub(crate) fn is_between(&self) -> bool {
        self.state == BOUNDARY
    }

    /// Scans the next chunk and returns each line that ends in it. The scanner has advanced past the chunk only when
    /// the iterator is exhausted.
    ///
    /// ```
    /// use tower_stream_core::{RecordFormat, boundary::Scanner};
    ///
    /// let mut scanner = Scanner::new(RecordFormat::Sse);
    /// let mut lines = scanner.lines(b"data: 1\n\nda");
    /// let line = lines.next().unwrap();
    /// assert_eq!((line.text, line.end, line.ends_record), (&b"data: 1"[..], 8, false));
    /// assert!(lines.next().unwrap().ends_record);
    /// assert!(lines.next().is_none());
    /// assert_eq!(lines.rest(), b"da");
    ///
    /// let line = scanner.lines(b"ta: 2\n").next().unwrap();
    /// assert_eq!((line.text, line.continues), (&b"ta: 2"[..], true));
    /// ```
    #[inline]
    pub fn lines<'a>(&'a mut self, chunk: &'a [u8]) -> Lines<'a> {
        let at = match self.state {
            State::Line
            | State::LineStart {
                after_cr: false, ..
            } => 0,
            _ => self.begin(chunk),
        };
        Lines {
            scanner: self,
            chunk,
            at,
        }
    }

    /// Scans what may precede the first line of a chunk: the rest of a line end, or of a byte order mark.
    #[cold]
    fn begin(&mut self, chunk: &[u8]) -> usize {
        match (self.state, chunk.first()) {
            (State::LineStart { boundary, .. }, Some(first)) => {
                self.state = State::LineStart {
                    boundary,
                    after_cr: false,
                };
                usize::from(*first == b'\n')
            }
            (State::Mark(before), Some(_)) => {
                let left = &BOM[usize::from(before)..];
                if chunk.starts_with(left) {
                    self.state = BOUNDARY;
                    return left.len();
                }
                if left.starts_with(chunk) {
                    // Shorter than the byte order mark.
                    self.state = State::Mark(before + chunk.len() as u8);
                    return chunk.len();
                }
                self.state = if before > 0 { State::Line } else { BOUNDARY };
                0
            }
            _ => 0,
        }
    }

    /// Scans the next chunk and returns each boundary in it. The scanner has advanced past the chunk only when the
    /// iterator is exhausted.
    #[inline]
    pub fn boundaries<'a>(&'a mut self, chunk: &'a [u8]) -> Boundaries<'a> {
        Boundaries(self.lines(chunk))
    }

    /// Returns whether a LF that follows belongs to the previous line end, because the stream so far ends with CR.
    #[must_use]
    pub fn awaits_lf(&self) -> bool {
        matches!(self.state, State::LineStart { after_cr: true, .. })
    }

    /// Fast path: scans a chunk whose last bytes show that it ends with a record. For any other chunk, returns false
    /// and changes nothing.
    #[inline(always)]
    #[must_use]
    pub fn takes_whole(&mut self, chunk: &[u8]) -> bool {
        // Two LFs end an event in every state (the second is that of a blank line), and a line too. Other line ends are
        // looked for apart, since most streams have these.
        if chunk.ends_with(b"\n\n") {
            self.state = BOUNDARY;
            return true;
        }
        self.takes_other_end(chunk)
    }

    #[inline(never)]
    fn takes_other_end(&mut self, chunk: &[u8]) -> bool {
        let whole = ends_with_record(self.format, chunk);
        if whole {
            self.state = BOUNDARY;
        }
        whole
    }

    /// Scans the next chunk and returns the last position at which the stream may be split: 0 for before the chunk, its
    /// length for after it. `None` if a record that was open before does not end in this chunk.
    ///
    /// A chunk that ends with a record takes the same time, whatever its length.
    pub fn last_boundary(&mut self, chunk: &[u8]) -> Option<usize> {
        if self.takes_whole(chunk) {
            return Some(chunk.len());
        }
        let before = self.at_boundary().then_some(0);
        let last = self.boundaries(chunk).last().or(before);
        // No record is open after a byte order mark, or after the LF of a split CRLF.
        if self.at_boundary() {
            Some(chunk.len())
        } else {
            last
        }
    }
}

/// A line that ends in a chunk, from [`Scanner::lines`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The part of the line in this chunk, without its line end, and without a byte order mark at the start of an event
    /// stream.
    pub text: &'a [u8],
    /// The line started in an earlier chunk, with the bytes that [`Lines::rest`] returned there. (A partial byte order
    /// mark is not among them.)
    pub continues: bool,
    /// Offset of `text` in this chunk.
    pub start: usize,
    /// Offset after the line end in this chunk. If the chunk ends inside of a CRLF, this is after the CR.
    pub end: usize,
    /// Whether a record ends with this line: a blank line in an event stream, or any line if lines are records.
    pub ends_record: bool,
}

/// The lines that end in one chunk, from [`Scanner::lines`].
#[derive(Debug)]
pub struct Lines<'a> {
    scanner: &'a mut Scanner,
    chunk: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    /// The bytes after the last returned line. Once the iterator is exhausted, this is the start of a line that does
    /// not end in this chunk.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        &self.chunk[self.at..]
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    #[inline]
    fn next(&mut self) -> Option<Line<'a>> {
        let (format, state) = (self.scanner.format, self.scanner.state);
        let rest = self.rest();
        let found = match format {
            RecordFormat::Lines => memchr(b'\n', rest),
            RecordFormat::Sse => memchr2(b'\n', b'\r', rest),
        };
        let Some(length) = found else {
            if !rest.is_empty() {
                self.scanner.state = State::Line;
            }
            return None;
        };
        let start = self.at;
        let mut end = start + length + 1;
        let mut after_cr = false;
        if rest[length] == b'\r' {
            match self.chunk.get(end) {
                Some(next) => end += usize::from(*next == b'\n'),
                None => after_cr = true,
            }
        }
        let continues = state == State::Line;
        let boundary = format == RecordFormat::Lines || (length == 0 && !continues);
        self.scanner.state = State::LineStart { boundary, after_cr };
        self.at = end;
        Some(Line {
            text: &rest[..length],
            continues,
            start,
            end,
            ends_record: boundary,
        })
    }
}

/// The boundaries of one chunk, from [`Scanner::boundaries`].
#[derive(Debug)]
pub struct Boundaries<'a>(Lines<'a>);

impl Iterator for Boundaries<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        self.0.find(|line| line.ends_record).map(|line| line.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The boundaries by the WHATWG algorithm on all bytes: split into lines; a blank line is a boundary.
    fn reference(format: RecordFormat, bytes: &[u8]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut start = if format == RecordFormat::Sse && bytes.starts_with(BOM) {
            3
        } else {
            0
        };
        let mut at = start;
        while at < bytes.len() {
            let (blank, byte) = (at == start, bytes[at]);
            at += 1;
            match format {
                RecordFormat::Lines if byte == b'\n' => found.push(at),
                RecordFormat::Sse if matches!(byte, b'\n' | b'\r') => {
                    if byte == b'\r' && bytes.get(at) == Some(&b'\n') {
                        at += 1;
                    }
                    start = at;
                    if blank {
                        found.push(at);
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// If a split is inside of the CRLF of a blank line, the boundary is before the LF.
    fn expected(format: RecordFormat, bytes: &[u8], cuts: &[usize]) -> Vec<usize> {
        reference(format, bytes)
            .into_iter()
            .map(|at| {
                let in_crlf =
                    format == RecordFormat::Sse && at >= 2 && &bytes[at - 2..at] == b"\r\n";
                if in_crlf && cuts.contains(&(at - 1)) {
                    at - 1
                } else {
                    at
                }
            })
            .collect()
    }

    /// The lines of an event stream, joined from the parts that a scanner returns.
    fn lines(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut scanner = Scanner::new(RecordFormat::Sse);
        let (mut lines, mut open) = (Vec::new(), Vec::new());
        for (_, piece) in pieces(bytes, cuts) {
            let mut found = scanner.lines(piece);
            for line in found.by_ref() {
                assert!(line.continues || open.is_empty());
                assert_eq!(&piece[line.start..][..line.text.len()], line.text);
                open.extend_from_slice(line.text);
                lines.push(std::mem::take(&mut open));
            }
            open.extend_from_slice(found.rest());
            assert!(found.next().is_none());
        }
        lines
    }

    /// The lines of all bytes, split by the WHATWG algorithm.
    fn expected_lines(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut rest = bytes.strip_prefix(BOM).unwrap_or(bytes);
        let mut lines = Vec::new();
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            lines.push(rest[..at].to_vec());
            rest = match &rest[at..] {
                [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
                [] => break,
            };
        }
        lines
    }

    fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<(usize, &'a [u8])> {
        let mut all = vec![0];
        all.extend(cuts);
        all.push(bytes.len());
        all.windows(2).map(|w| (w[0], &bytes[w[0]..w[1]])).collect()
    }

    fn check(format: RecordFormat, bytes: &[u8], cuts: &[usize]) {
        if format == RecordFormat::Sse {
            // If a chunk ends inside of the byte order mark, the first line is returned without that part.
            let without_mark = |mut lines: Vec<Vec<u8>>| {
                if let Some(first) = lines.first_mut() {
                    let start = first.iter().take_while(|byte| BOM.contains(byte)).count();
                    first.drain(..start);
                }
                lines
            };
            let given = without_mark(lines(bytes, cuts));
            let expected = without_mark(expected_lines(bytes));
            assert_eq!(given, expected, "{bytes:?} {cuts:?}");
        }
        let mut forward = Scanner::new(format);
        let mut backward = Scanner::new(format);
        let mut found = Vec::new();
        for (start, piece) in pieces(bytes, cuts) {
            let open = !forward.at_boundary();
            let here: Vec<usize> = forward.boundaries(piece).collect();
            let mut quick = backward;
            let whole = quick.takes_whole(piece);
            let last = backward.last_boundary(piece);
            if whole {
                let taken = (Some(piece.len()), quick.state);
                assert_eq!((last, backward.state), taken, "{piece:?}");
            }
            assert_eq!(
                forward.at_boundary(),
                backward.at_boundary(),
                "after {:?}",
                &bytes[..start + piece.len()]
            );
            match (here.last(), last) {
                (Some(here), Some(last)) => assert!(*here <= last),
                (Some(_), None) => panic!("missed a boundary in {piece:?}"),
                (None, Some(0)) => assert!(!open),
                // The LF of a split CRLF, or a byte order mark.
                (None, Some(at)) => assert!(at <= 3 && !open || start < 3, "{piece:?} {at}"),
                (None, None) => assert!(open),
            }
            found.extend(here.iter().map(|at| start + at));
        }
        assert_eq!(
            found,
            expected(format, bytes, cuts),
            "{:?} cut at {cuts:?}",
            String::from_utf8_lossy(bytes)
        );
    }

    const SAMPLES: [&str; 13] = [
        "\u{feff}\nx\n\ny",
        "data: 1\n\ndata: 2\n\n",
        "data: 1\r\n\r\ndata: 2\r\n\r\n",
        "data: 1\r\rdata: 2\r\r",
        "\u{feff}data: 1\n\n",
        "\u{feff}\n\ndata",
        "\u{feff}\u{feff}\n\n",
        "id: 7\nevent: e\ndata: \u{1f600}\u{e9}\n\n: comment\n\n\n\nretry: 3\n\n",
        "a\r\n\rb\n\r\nc\r\n\n\r\n\rd",
        "\n\n\r\r\n\r\n",
        "",
        "no end",
        "{\"a\":1}\n{\"b\":2}\r\n\n{\"c\"",
    ];

    #[test]
    fn every_split_of_every_sample_gives_the_boundaries_of_the_whole() {
        for format in [RecordFormat::Sse, RecordFormat::Lines] {
            for sample in SAMPLES {
                let bytes = sample.as_bytes();
                for one in 0..=bytes.len() {
                    for two in one..=bytes.len() {
                        check(format, bytes, &[one, two]);
                    }
                }
                let all: Vec<usize> = (1..bytes.len()).collect();
                check(format, bytes, &all);
            }
        }
    }

    #[test]
    fn half_a_byte_order_mark_is_no_place_to_write() {
        let mut scanner = Scanner::new(RecordFormat::Sse);
        assert_eq!(scanner.last_boundary(&BOM[..2]), Some(0));
        assert!(!scanner.at_boundary());
        scanner.last_boundary(&BOM[2..]);
        assert!(scanner.at_boundary());
    }

    /// The last boundary is exact, which is checked against the reference on one whole chunk.
    #[test]
    fn the_last_boundary_of_a_whole_chunk_is_the_reference() {
        for sample in SAMPLES {
            let mut scanner = Scanner::new(RecordFormat::Sse);
            let last = scanner.last_boundary(sample.as_bytes()).unwrap();
            let want = reference(RecordFormat::Sse, sample.as_bytes())
                .last()
                .copied()
                .unwrap_or(0);
            let bom_only = want == 0 && last == 3 && sample.starts_with('\u{feff}');
            assert!(last == want || bom_only, "{sample:?}: {last} for {want}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn any_bytes_in_any_pieces(
            bytes in proptest::collection::vec(
                prop_oneof![3 => Just(b'\n'), 3 => Just(b'\r'), 2 => Just(b'x'), 1 => Just(0xef), 1 => Just(0xbb), 1 => Just(0xbf)],
                0..40,
            ),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
            marked: bool,
        ) {
            let bytes = if marked { [BOM, &bytes[..]].concat() } else { bytes };
            let mut cuts: Vec<usize> = cuts.iter().map(|i| i.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            check(RecordFormat::Sse, &bytes, &cuts);
            check(RecordFormat::Lines, &bytes, &cuts);
        }
    }
}
