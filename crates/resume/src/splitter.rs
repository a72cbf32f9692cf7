//! Cuts a body into the records that are kept.

use std::mem;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2};
use tower_stream_core::{RecordFormat, boundary::Scanner};

/// Longer records fail the stream.
const LONGEST: usize = 16 * 1_024 * 1_024;

/// The byte order mark, which an event stream may start with.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Cuts chunks of a body into records.
///
/// Of server-sent events, the `id:` lines are removed, because a client must get the cursor as id. A block without `data:` is no event:
/// it is dropped, or, if it has a `retry:`, kept in front of the next event. Of lines, blank ones are dropped.
pub(crate) struct Splitter {
    scanner: Scanner,
    format: RecordFormat,
    /// The start of a record that has not ended yet.
    open: BytesMut,
    /// A block with `retry:`, which goes with the next event.
    ahead: Bytes,
    is_start: bool,
}

/// A record is longer than the layer keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Splitter {
    pub(crate) fn new(format: RecordFormat) -> Self {
        Self {
            scanner: Scanner::new(format),
            format,
            open: BytesMut::new(),
            ahead: Bytes::new(),
            is_start: format == RecordFormat::Sse,
        }
    }

    /// Takes the next chunk, and passes the records that end in it to `out`.
    pub(crate) fn push(
        &mut self,
        mut chunk: Bytes,
        mut out: impl FnMut(Bytes),
    ) -> Result<(), TooLong> {
        if self.is_record(&chunk) {
            out(chunk);
            return Ok(());
        }
        if self.scanner.awaits_lf() && self.scanner.at_boundary() && chunk.starts_with(b"\n") {
            // The rest of the line end of the record before, which has been passed on with its CR.
            let lf = chunk.split_to(1);
            self.scanner.boundaries(&lf).for_each(drop);
        }
        let mut scanner = self.scanner;
        let mut taken = 0;
        let mut fields = Fields::default();
        for line in scanner.lines(&chunk) {
            fields.add(line.text);
            if !line.ends_record {
                continue;
            }
            let of_record = mem::take(&mut fields);
            let record = chunk.slice(taken..line.end);
            taken = line.end;
            let cleaned = match self.open.is_empty() {
                true => self.cleaned(record, of_record),
                false => {
                    self.open.extend_from_slice(&record);
                    let record = self.open.split().freeze();
                    let mark = self.is_start && record.starts_with(MARK);
                    let fields = Fields::of(&record[if mark { MARK.len() } else { 0 }..]);
                    self.cleaned(record, fields)
                }
            };
            if let Some(record) = cleaned {
                out(record);
            }
        }
        self.scanner = scanner;
        let rest = &chunk[taken..];
        if self.open.len() + rest.len() > LONGEST {
            return Err(TooLong);
        }
        self.open.extend_from_slice(rest);
        Ok(())
    }

    /// Whether a chunk is one record that is kept as it is: an event of a single line of `data:`, or one JSON line. Most chunks are.
    #[inline]
    fn is_record(&self, chunk: &[u8]) -> bool {
        let is_clean = self.scanner.at_boundary() && !self.scanner.awaits_lf();
        if !is_clean || self.is_start || !self.ahead.is_empty() {
            return false;
        }
        match self.format {
            RecordFormat::Sse => {
                let event = chunk.strip_prefix(b"data:");
                let line = event.and_then(|event| event.strip_suffix(b"\n\n"));
                line.is_some_and(|line| memchr2(b'\n', b'\r', line).is_none())
            }
            RecordFormat::Lines => {
                let line = chunk.strip_suffix(b"\n");
                line.is_some_and(|line| !is_blank(line) && memchr(b'\n', line).is_none())
            }
        }
    }

    /// The last line of a body that ended without its LF. An event without its blank line is none (WHATWG HTML section 9.2.6).
    pub(crate) fn finish(&mut self) -> Option<Bytes> {
        let rest = self.open.split().freeze();
        match self.format {
            RecordFormat::Lines if !is_blank(&rest) => Some(rest),
            _ => None,
        }
    }

    /// The record as it is kept, or `None` if it is not.
    #[inline]
    fn cleaned(&mut self, record: Bytes, fields: Fields) -> Option<Bytes> {
        if self.format == RecordFormat::Lines {
            return (!is_blank(&record)).then_some(record);
        }
        if fields.data && !fields.id && self.ahead.is_empty() && !self.is_start {
            return Some(record);
        }
        self.cleaned_event(record, fields)
    }

    fn cleaned_event(&mut self, mut record: Bytes, fields: Fields) -> Option<Bytes> {
        if mem::take(&mut self.is_start) && record.starts_with(MARK) {
            record = record.slice(MARK.len()..);
        }
        if fields.id {
            let mut kept = BytesMut::with_capacity(record.len());
            let others = lines(&record).filter(|line| name(line) != b"id");
            others.for_each(|line| kept.extend_from_slice(line));
            record = kept.freeze();
        }
        if !fields.data {
            if fields.retry {
                self.ahead = joined(&mem::take(&mut self.ahead), record);
                if self.ahead.len() > 4_096 {
                    self.ahead = Bytes::new();
                }
            }
            return None;
        }
        Some(joined(&mem::take(&mut self.ahead), record))
    }
}

/// Which fields an event has.
#[derive(Clone, Copy, Default)]
struct Fields {
    data: bool,
    id: bool,
    retry: bool,
}

impl Fields {
    fn of(record: &[u8]) -> Self {
        let mut fields = Self::default();
        lines(record).for_each(|line| fields.add(line));
        fields
    }

    #[inline]
    fn add(&mut self, line: &[u8]) {
        match name(line) {
            b"data" => self.data = true,
            b"id" => self.id = true,
            b"retry" => self.retry = true,
            _ => {}
        }
    }
}

fn joined(ahead: &Bytes, record: Bytes) -> Bytes {
    match ahead.is_empty() {
        true => record,
        false => [&ahead[..], &record[..]].concat().into(),
    }
}

fn is_blank(line: &[u8]) -> bool {
    line.trim_ascii().is_empty()
}

/// The lines, with their line ends.
fn lines(mut record: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if record.is_empty() {
            return None;
        }
        let length = match memchr2(b'\n', b'\r', record) {
            Some(at) if record[at..].starts_with(b"\r\n") => at + 2,
            Some(at) => at + 1,
            None => record.len(),
        };
        let (line, rest) = record.split_at(length);
        record = rest;
        Some(line)
    })
}

/// The name of the field in a line.
fn name(line: &[u8]) -> &[u8] {
    let is_end = |byte: &u8| matches!(byte, b':' | b'\n' | b'\r');
    let end = line.iter().position(is_end).unwrap_or(line.len());
    &line[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(format: RecordFormat, body: &str, cut: usize) -> (Vec<String>, Option<String>) {
        let mut splitter = Splitter::new(format);
        let mut records = Vec::new();
        for chunk in body.as_bytes().chunks(cut.max(1)) {
            let chunk = Bytes::copy_from_slice(chunk);
            let out = |record: Bytes| records.push(String::from_utf8(record.to_vec()).unwrap());
            splitter.push(chunk, out).unwrap();
        }
        let rest = splitter.finish();
        (
            records,
            rest.map(|rest| String::from_utf8(rest.to_vec()).unwrap()),
        )
    }

    #[test]
    fn events_lose_their_ids_however_they_are_cut() {
        let body = "\u{feff}id: 7\ndata: a\nidle: x\n\n: comment\n\nretry: 5\n\nevent: e\r\nid\r\ndata:b\r\ndata\r\n\r\ndata: c\ndata: id: 1\n\nid: 9\n\ndata: lost";
        for cut in 1..=body.len() {
            let (records, rest) = split(RecordFormat::Sse, body, cut);
            let expected = [
                "data: a\nidle: x\n\n",
                "retry: 5\n\nevent: e\r\ndata:b\r\ndata\r\n\r\n",
                "data: c\ndata: id: 1\n\n",
            ];
            // A CRLF that is cut ends with its CR.
            let same = records.iter().map(|record| record.replace("\r\n", "\n"));
            let same: Vec<_> = same.map(|record| record.replace('\r', "\n")).collect();
            let expected: Vec<_> = expected.map(|record| record.replace("\r\n", "\n")).into();
            assert_eq!((same, rest), (expected, None), "{cut}");
        }
    }

    #[test]
    fn an_event_in_a_chunk_of_its_own_goes_with_what_is_before_it() {
        let mut splitter = Splitter::new(RecordFormat::Sse);
        let mut records = Vec::new();
        for chunk in [
            "data: 1\n\n",
            "\u{feff}data: no event, since the mark is part of the name\n\n",
            "retry: 5\n\n",
            "data: 2\n\n",
            "data: 3\n",
            "data: 3\n\n",
            "data: 4\r\n\r",
            "data: 5\n\n",
        ] {
            let out = |record| records.push(record);
            splitter.push(Bytes::from(chunk), out).unwrap();
        }
        let expected = [
            "data: 1\n\n",
            "retry: 5\n\ndata: 2\n\n",
            "data: 3\ndata: 3\n\n",
            "data: 4\r\n\r",
            "data: 5\n\n",
        ];
        assert_eq!(records, expected);
    }

    #[test]
    fn lines_are_kept_with_an_open_last_one() {
        for cut in 1..10 {
            let (records, rest) = split(RecordFormat::Lines, "{}\n\n \r\n[1]\r\n2", cut);
            assert_eq!(records, ["{}\n", "[1]\r\n"]);
            assert_eq!(rest.as_deref(), Some("2"));
        }
    }

    #[test]
    fn a_record_without_an_end_is_refused() {
        let mut splitter = Splitter::new(RecordFormat::Sse);
        let half = Bytes::from(vec![b'x'; LONGEST]);
        assert_eq!(splitter.push(half, |_| ()), Ok(()));
        assert_eq!(splitter.push(Bytes::from("x"), |_| ()), Err(TooLong));
    }

    proptest! {
        #[test]
        fn records_do_not_depend_on_the_cuts(body in "(data: [ab]{0,2}|id:1|retry: 2|\n|\r|\r\n){0,14}", cut in 1..9_usize) {
            let norm = |body: String| {
                let (records, rest) = split(RecordFormat::Sse, &body, cut);
                let (whole, _) = split(RecordFormat::Sse, &body, usize::MAX);
                let lf = |all: Vec<String>| -> Vec<String> {
                    all.iter().map(|record| record.replace("\r\n", "\n").replace('\r', "\n")).collect()
                };
                (lf(records), rest, lf(whole))
            };
            let (records, rest, whole) = norm(body);
            prop_assert_eq!(records, whole);
            prop_assert_eq!(rest, None);
        }
    }
}
