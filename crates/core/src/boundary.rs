//! Where the records of a stream end, in bytes that are cut anywhere.
//!
//! A client of server-sent events acts on an event at the blank line that ends it, a client of JSON lines on a line
//! at its LF. A layer that writes into such a stream has to know whether it stands between two records, whatever the
//! chunks look like: an event may come in ten chunks, and a CRLF may be cut in the middle.
//!
//! ```
//! use tower_stream_core::{RecordFormat, boundary::Scanner};
//!
//! let mut scanner = Scanner::new(RecordFormat::Sse);
//! assert!(scanner.at_boundary());
//! assert_eq!(scanner.last_boundary(b"data: 1\r\n\r\ndata: 2\r"), Some(11));
//! assert!(!scanner.at_boundary());
//! // the LF belongs to the line end that the CR began; then comes the blank line
//! assert_eq!(scanner.boundaries(b"\n\ndata").collect::<Vec<_>>(), [2]);
//! ```

use memchr::{memchr, memchr2, memrchr, memrchr2};

use crate::RecordFormat;

/// Follows the record boundaries of one stream, chunk by chunk.
///
/// A boundary is the offset of the first byte after a record: after the blank line of an SSE event (WHATWG HTML
/// section 9.2.6; each further blank line is a boundary again), after the LF of a line. The start of a stream is one.
/// Where a CRLF that ends an event is cut, the boundary is before the LF, which then belongs to no record.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    format: RecordFormat,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the start of the stream, after this many bytes of a byte order mark.
    Start(u8),
    /// Within a line.
    Line,
    /// After the end of a line that was not blank; `cr` when a LF would still belong to that end.
    Eol { cr: bool },
    /// After the end of a blank line, or of any line where lines are records.
    Boundary { cr: bool },
}

const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];

impl State {
    fn sse(self, byte: u8) -> Self {
        match (self, byte) {
            // a byte order mark at the very start is no part of the first line
            (Self::Start(n), byte) if n < 3 && byte == BOM[usize::from(n)] => Self::Start(n + 1),
            (Self::Start(0 | 3), b'\n') => Self::Boundary { cr: false },
            (Self::Start(0 | 3), b'\r') => Self::Boundary { cr: true },
            (Self::Eol { cr: true }, b'\n') => Self::Eol { cr: false },
            (Self::Eol { .. } | Self::Boundary { .. }, b'\n') => Self::Boundary { cr: false },
            (Self::Eol { .. } | Self::Boundary { .. }, b'\r') => Self::Boundary { cr: true },
            (Self::Line | Self::Start(_), b'\n') => Self::Eol { cr: false },
            (Self::Line | Self::Start(_), b'\r') => Self::Eol { cr: true },
            _ => Self::Line,
        }
    }

    fn is_boundary(self) -> bool {
        matches!(self, Self::Boundary { .. } | Self::Start(0 | 3))
    }
}

fn is_eol(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

impl Scanner {
    /// Stands at the start of a stream of this format.
    #[must_use]
    pub fn new(format: RecordFormat) -> Self {
        Self {
            format,
            state: State::Start(0),
        }
    }

    /// Whether no record is open: what comes next begins a new one.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.state.is_boundary()
    }

    /// Goes over the next chunk and gives each boundary in it. The scanner stands behind the whole chunk when the
    /// iterator is exhausted, and only then.
    pub fn boundaries<'a>(&'a mut self, chunk: &'a [u8]) -> Boundaries<'a> {
        Boundaries {
            scanner: self,
            chunk,
            at: 0,
        }
    }

    /// Goes over a chunk that its last two bytes show to end with a record; gives false, and does nothing, for every
    /// chunk that has to be looked at more closely.
    #[inline]
    pub(crate) fn takes_whole(&mut self, chunk: &[u8]) -> bool {
        let whole = match self.format {
            RecordFormat::Lines => chunk.ends_with(b"\n"),
            // in whatever state: two LF are a blank line
            RecordFormat::Sse => chunk.ends_with(b"\n\n"),
        };
        if whole {
            self.state = State::Boundary { cr: false };
        }
        whole
    }

    /// Goes over the next chunk and gives the last place in it where the stream may be cut: 0 to leave none of it,
    /// its length to take it whole, `None` when a record that was open before ends nowhere in it.
    ///
    /// Looks at the last bytes first, so a chunk that ends with a record costs the same whatever its length.
    pub fn last_boundary(&mut self, chunk: &[u8]) -> Option<usize> {
        let before = self.state;
        match self.format {
            RecordFormat::Lines => {
                let last = memrchr(b'\n', chunk).map(|at| at + 1);
                match (last, chunk) {
                    (_, []) => {}
                    (Some(at), _) if at == chunk.len() => {
                        self.state = State::Boundary { cr: false }
                    }
                    _ => self.state = State::Line,
                }
                last.or_else(|| before.is_boundary().then_some(0))
            }
            RecordFormat::Sse => {
                self.state = end_state(before, chunk);
                if self.at_boundary() {
                    return Some(chunk.len());
                }
                search_back(before, chunk).or_else(|| before.is_boundary().then_some(0))
            }
        }
    }
}

/// The state after a chunk, from its last three bytes where that is enough.
fn end_state(before: State, chunk: &[u8]) -> State {
    // a byte order mark can take the first three bytes of a stream
    let past_start = !matches!(before, State::Start(_)) || chunk.len() >= 6;
    match chunk {
        // how the line before ended makes no difference to what `b` and `c` make of it
        [.., a, b, c] if past_start => {
            let state = if is_eol(*a) {
                State::Eol { cr: false }
            } else {
                State::Line
            };
            state.sse(*b).sse(*c)
        }
        _ => chunk.iter().fold(before, |state, byte| state.sse(*byte)),
    }
}

/// The last boundary that is not at the end of the chunk, searched from behind.
fn search_back(before: State, chunk: &[u8]) -> Option<usize> {
    // the first bytes depend on the chunk before; at the start of a stream a byte order mark may come first
    let head = if matches!(before, State::Start(_)) {
        6
    } else {
        3
    };
    let mut end = chunk.len();
    while let Some(at) = memrchr2(b'\n', b'\r', &chunk[..end]) {
        if at < head {
            break;
        }
        // is the line that ends here blank? A LF after a CR is one line end, so look before both.
        let first = if chunk[at] == b'\n' && chunk[at - 1] == b'\r' {
            at - 1
        } else {
            at
        };
        if is_eol(chunk[first - 1]) {
            return Some(at + 1);
        }
        end = first;
    }
    let mut state = before;
    let mut last = None;
    for (at, byte) in chunk.iter().enumerate().take(end.min(head)) {
        state = state.sse(*byte);
        if state.is_boundary() {
            last = Some(at + 1);
        }
    }
    last
}

/// The boundaries of one chunk, from [`Scanner::boundaries`].
#[derive(Debug)]
pub struct Boundaries<'a> {
    scanner: &'a mut Scanner,
    chunk: &'a [u8],
    at: usize,
}

impl Iterator for Boundaries<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        match self.scanner.format {
            RecordFormat::Lines => self.next_line(),
            RecordFormat::Sse => self.next_event(),
        }
    }
}

impl Boundaries<'_> {
    fn next_line(&mut self) -> Option<usize> {
        let rest = &self.chunk[self.at..];
        match memchr(b'\n', rest) {
            Some(at) => {
                self.at += at + 1;
                self.scanner.state = State::Boundary { cr: false };
                Some(self.at)
            }
            None => {
                if !rest.is_empty() {
                    self.scanner.state = State::Line;
                    self.at = self.chunk.len();
                }
                None
            }
        }
    }

    fn next_event(&mut self) -> Option<usize> {
        let mut state = self.scanner.state;
        while let Some(&byte) = self.chunk.get(self.at) {
            if state == State::Line && !is_eol(byte) {
                match memchr2(b'\n', b'\r', &self.chunk[self.at..]) {
                    Some(skip) => self.at += skip,
                    None => {
                        self.at = self.chunk.len();
                        break;
                    }
                }
                continue;
            }
            let completes_crlf = byte == b'\n' && state == State::Boundary { cr: true };
            state = if completes_crlf {
                State::Boundary { cr: false }
            } else {
                state.sse(byte)
            };
            self.at += 1;
            // a LF in this chunk still belongs to the line end
            let cr = state == State::Boundary { cr: true };
            let more = cr && self.chunk.get(self.at) == Some(&b'\n');
            if matches!(state, State::Boundary { .. }) && !more && !(completes_crlf && self.at == 1)
            {
                self.scanner.state = state;
                return Some(self.at);
            }
        }
        self.scanner.state = state;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the WHATWG algorithm gives, on the whole bytes: split into lines, a blank line is a boundary.
    fn reference(format: RecordFormat, bytes: &[u8]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut start = if format == RecordFormat::Sse && bytes.starts_with(&BOM) {
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
                RecordFormat::Sse if is_eol(byte) => {
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

    /// Where a split cuts the CRLF of a blank line, the boundary is before the LF.
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

    fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<(usize, &'a [u8])> {
        let mut all = vec![0];
        all.extend(cuts);
        all.push(bytes.len());
        all.windows(2).map(|w| (w[0], &bytes[w[0]..w[1]])).collect()
    }

    fn check(format: RecordFormat, bytes: &[u8], cuts: &[usize]) {
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
                // the LF of a cut CRLF, or a byte order mark
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

    /// The last boundary is exact: all of it can be checked against the reference on one whole chunk.
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
            let bytes = if marked { [&BOM, &bytes[..]].concat() } else { bytes };
            let mut cuts: Vec<usize> = cuts.iter().map(|i| i.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            check(RecordFormat::Sse, &bytes, &cuts);
            check(RecordFormat::Lines, &bytes, &cuts);
        }
    }
}
