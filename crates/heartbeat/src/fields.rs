//! Looks for event fields that change how a client reads the rest of the stream.

use tower_stream_core::{RecordFormat, boundary::Scanner};

/// Returns whether a line is an `id:` or a `retry:` field. Some clients apply both to the rest of the stream.
fn is_id_or_retry(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next();
    matches!(name, Some(b"id" | b"retry"))
}

/// Returns whether any line of these bytes is such a field.
pub(crate) fn has_id_or_retry(bytes: &[u8]) -> bool {
    let mut watch = IdWatch::default();
    watch.scan(&mut Scanner::new(RecordFormat::Sse), bytes);
    watch.seen
}

/// Looks for an `id:` or a `retry:` in a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IdWatch {
    seen: bool,
    /// The start of the incomplete last line, with the number of known bytes.
    open: [u8; Self::LONGEST],
    length: u8,
}

impl IdWatch {
    /// The length of `retry:`.
    const LONGEST: usize = 6;

    pub(crate) fn has_seen(&self) -> bool {
        self.seen
    }

    /// Scans the next chunk, and advances the scanner past it.
    pub(crate) fn scan(&mut self, scanner: &mut Scanner, chunk: &[u8]) {
        if scanner.at_boundary() {
            // Unsearched chunks may have come in between.
            self.length = 0;
        }
        let mut lines = scanner.lines(chunk);
        for line in lines.by_ref() {
            self.add(line.text);
            self.seen |= is_id_or_retry(&self.open[..usize::from(self.length)]);
            self.length = 0;
        }
        let rest = lines.rest();
        self.add(rest);
    }

    fn add(&mut self, text: &[u8]) {
        let free = &mut self.open[usize::from(self.length)..];
        for (to, from) in free.iter_mut().zip(text) {
            *to = *from;
            self.length += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_was_not_searched_leaves_nothing_behind() {
        let (mut watch, mut scanner) = (IdWatch::default(), Scanner::new(RecordFormat::Sse));
        watch.scan(&mut scanner, b"da");
        assert!(scanner.takes_whole(b"ta: 1\n\n"));
        watch.scan(&mut scanner, b"id: 2\n\n");
        assert!(watch.has_seen());
    }

    #[test]
    fn an_id_is_found_wherever_it_is_cut() {
        for (text, found) in [
            ("data: 1\nid: 7\n\n", true),
            ("id\n", true),
            ("id:\r\rdata: 1\r\r", true),
            ("event: x\r\nretry: 3000\r\n\r\n", true),
            ("\u{feff}id: 1\n\n", true),
            ("data: id: 7\n\n", false),
            ("identity: 7\nretry-after: 1\n: id: 1\n\n", false),
            // Not a complete line yet.
            ("data: 1\n\nid: 7", false),
        ] {
            for cut in 0..=text.len() {
                let (mut watch, mut scanner) =
                    (IdWatch::default(), Scanner::new(RecordFormat::Sse));
                let (first, second) = text.as_bytes().split_at(cut);
                watch.scan(&mut scanner, first);
                watch.scan(&mut scanner, second);
                assert_eq!(watch.has_seen(), found, "{text:?} cut at {cut}");
            }
        }
    }
}
