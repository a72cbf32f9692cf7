//! Parses the records of a stream for what they say about its end.

use bytes::Bytes;
use serde_json::Value;
use tower_stream_core::{Dialect, Record, RecordFormat, StreamKind, boundary::Scanner};

use crate::Format;

/// What the most recent record says about the end of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The record is neither an error nor a drain record.
    Nothing,
    /// The record is an error.
    Error,
    /// The record announces that the server is shutting down.
    Drain,
    /// The record is an error or a drain record in the middle of another record.
    Broken,
}

/// Reads the records of one stream.
#[derive(Debug)]
pub(crate) struct Records {
    format: Option<RecordFormat>,
    scanner: Scanner,
    /// The bytes of the incomplete last record.
    open: Vec<u8>,
    last: Vec<u8>,
    count: u64,
    farewells: u64,
    word: Word,
    /// Its last record has not come yet.
    awaited: Option<Dialect>,
}

/// A longer record is counted but not parsed.
const LONGEST: usize = 256 * 1024;

/// Number of trailing bytes kept of a body without records.
const TAIL: usize = 4096;

impl Records {
    pub(crate) fn new(format: Format, headers: &http::HeaderMap) -> Self {
        let format = match format {
            Format::Auto => StreamKind::of(headers).records(),
            Format::Sse => Some(RecordFormat::Sse),
            Format::Jsonl => Some(RecordFormat::Lines),
            Format::Raw => None,
        };
        Self {
            format,
            scanner: Scanner::new(format.unwrap_or(RecordFormat::Lines)),
            open: Vec::new(),
            last: Vec::new(),
            count: 0,
            farewells: 0,
            word: Word::Nothing,
            awaited: None,
        }
    }

    /// The stream is to end with the last record of this dialect, if it is one of its streams.
    pub(crate) fn expect_last_record_of(&mut self, dialect: Option<Dialect>) {
        let speaks = |dialect: &Dialect| dialect.kind().records() == self.format;
        self.awaited = dialect.filter(speaks).filter(Dialect::has_last_record);
    }

    /// Whether a stream that ends now ends without its last record.
    pub(crate) fn are_incomplete(&self) -> bool {
        let open = |dialect: &Dialect, format| {
            let record = Record::new(format, &self.open);
            dialect.is_last_record(&record)
        };
        match (self.awaited, self.format) {
            (Some(dialect), Some(format)) => !open(&dialect, format),
            _ => false,
        }
    }

    /// Reads a chunk and returns the number of records that it completed.
    pub(crate) fn push(&mut self, chunk: &Bytes) -> u64 {
        let Some(format) = self.format else {
            self.tail(chunk);
            return 0;
        };
        let before = self.count;
        let mut from = 0;
        let mut scanner = self.scanner;
        for at in scanner.boundaries(chunk) {
            self.extend(&chunk[from..at]);
            from = at;
            self.record(format);
            self.open.clear();
        }
        self.scanner = scanner;
        self.extend(&chunk[from..]);
        self.count - before
    }

    fn extend(&mut self, part: &[u8]) {
        let room = LONGEST.saturating_sub(self.open.len());
        self.open.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn tail(&mut self, chunk: &[u8]) {
        let new = &chunk[chunk.len().saturating_sub(TAIL)..];
        let over = (self.last.len() + new.len()).saturating_sub(TAIL);
        self.last.drain(..over);
        self.last.extend_from_slice(new);
    }

    /// Handles a complete record.
    fn record(&mut self, format: RecordFormat) {
        let text = String::from_utf8_lossy(&self.open);
        let word = match format {
            RecordFormat::Sse => sse_word(text.trim_start_matches('\u{feff}')),
            RecordFormat::Lines => line_word(text.trim_start_matches('\u{1e}')),
        };
        let last = |dialect: &mut Dialect| dialect.is_last_record(&Record::new(format, &self.open));
        self.awaited.take_if(last);
        if let Some(word) = word {
            self.count += 1;
            self.farewells += u64::from(word == Word::Drain);
            self.word = word;
            std::mem::swap(&mut self.last, &mut self.open);
        }
    }

    /// Number of records.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Number of drain records.
    pub(crate) fn farewells(&self) -> u64 {
        self.farewells
    }

    /// The last record, as raw bytes. A final JSON value without a LF counts as a record. For a body without records,
    /// its last bytes.
    pub(crate) fn last(&self) -> &[u8] {
        if self.open.trim_ascii().is_empty() || self.ends_open() {
            &self.last
        } else {
            &self.open
        }
    }

    /// What the most recent record says.
    pub(crate) fn word(&self) -> Word {
        self.word
    }

    /// Returns whether a body that ends here ends in the middle of a record. A final JSON value without a LF is
    /// complete.
    pub(crate) fn ends_open(&self) -> bool {
        match self.format {
            None => false,
            Some(RecordFormat::Sse) => !self.scanner.at_boundary(),
            Some(RecordFormat::Lines) => {
                !self.scanner.at_boundary()
                    && !self.open.trim_ascii().is_empty()
                    && serde_json::from_slice::<Value>(&self.open).is_err()
            }
        }
    }
}

/// Returns `None` for a block that dispatches no event (comments, `retry:`, blank lines).
fn sse_word(event: &str) -> Option<Word> {
    let (mut name, mut data) = ("", None::<String>);
    // No server writes data both before and after the `event:` field, so two records overlap here.
    let (mut before, mut after) = (false, false);
    for line in event.split(['\r', '\n']) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => (name, before) = (value, data.is_some()),
            "data" => {
                after = !name.is_empty();
                match &mut data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => data = Some(value.to_owned()),
                }
            }
            _ => {}
        }
    }
    let data = data?;
    Some(match name {
        "error" | "drain" if before && after => Word::Broken,
        "error" => Word::Error,
        "drain" => Word::Drain,
        // The OpenAI API sends errors this way, without an `event:` field.
        _ => member_word(&data).unwrap_or(Word::Nothing),
    })
}

/// Returns `None` for a blank line.
fn line_word(line: &str) -> Option<Word> {
    (!line.trim().is_empty()).then(|| member_word(line).unwrap_or(Word::Broken))
}

/// Looks for a top-level member `error` or `drain` in a JSON object. Returns `None` when the text contains such a name
/// but is not JSON.
fn member_word(text: &str) -> Option<Word> {
    // Fast path: most records contain neither name and need no parsing.
    if !text.contains("\"error\"") && !text.contains("\"drain\"") {
        return Some(Word::Nothing);
    }
    Some(match serde_json::from_str::<Value>(text).ok()? {
        Value::Object(members) => match (members.get("error"), members.get("drain")) {
            // In a dialect without a form for a drain, the drain is an error with this code.
            (Some(Value::Object(error)), _) if error.get("code") == Some(&"drain".into()) => {
                Word::Drain
            }
            (Some(Value::Object(_) | Value::String(_)), _) => Word::Error,
            (_, Some(Value::Object(_) | Value::String(_))) => Word::Drain,
            _ => Word::Nothing,
        },
        _ => Word::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_without_its_last_record_is_incomplete() {
        let incomplete = |format, dialect, text: &str| {
            let mut records = Records::new(format, &http::HeaderMap::new());
            records.expect_last_record_of(Some(dialect));
            records.push(&Bytes::copy_from_slice(text.as_bytes()));
            records.are_incomplete()
        };
        let chat = Dialect::OPENAI_CHAT;
        assert!(incomplete(Format::Sse, chat, "data: {}\n\n"));
        assert!(!incomplete(Format::Sse, chat, "data: [DONE]\n\n: bye\n\n"));
        assert!(!incomplete(Format::Raw, chat, "{}"));
        assert!(incomplete(
            Format::Jsonl,
            Dialect::OLLAMA,
            "{\"done\":false}\n"
        ));
        assert!(!incomplete(
            Format::Jsonl,
            Dialect::OLLAMA,
            "{\"done\":true}"
        ));
    }

    #[test]
    fn a_drain_is_told_in_the_form_of_an_error() {
        let text = "{\"error\":{\"code\":\"drain\"}}";
        assert_eq!(member_word(text), Some(Word::Drain));
    }

    fn read(format: Format, chunks: &[&str]) -> (u64, Word, bool) {
        let mut records = Records::new(format, &http::HeaderMap::new());
        for chunk in chunks {
            records.push(&Bytes::copy_from_slice(chunk.as_bytes()));
        }
        (records.count, records.word(), records.ends_open())
    }

    #[test]
    fn events_are_counted_and_the_last_word_is_kept() {
        assert_eq!(
            read(Format::Sse, &["data: 1\n\n: ping\n\nda", "ta: 2\r\n\r\n"]),
            (2, Word::Nothing, false)
        );
        assert_eq!(
            read(Format::Sse, &["data: 1\n\nevent: error\nda", "ta: {}\n\n"]),
            (2, Word::Error, false)
        );
        assert_eq!(
            read(Format::Sse, &["event: drain\ndata: {}\nretry: 9\n\n"]),
            (1, Word::Drain, false)
        );
        assert_eq!(
            read(Format::Sse, &["data: {\"error\":{\"message\":\"x\"}}\n\n"]),
            (1, Word::Error, false)
        );
        // "error" inside a string value is not an error.
        assert_eq!(
            read(Format::Sse, &["data: {\"text\":\"\\\"error\\\"\"}\n\n"]),
            (1, Word::Nothing, false)
        );
        assert_eq!(
            read(Format::Sse, &["event: error\n\n"]),
            (0, Word::Nothing, false)
        );
    }

    #[test]
    fn a_closing_record_in_the_middle_of_another_is_no_closing_record() {
        for half in ["data: 1", "data: 1\n", "data: 1\nid: 1\n"] {
            let (_, word, _) = read(Format::Sse, &[half, "event: drain\ndata: {}\n\n"]);
            assert_ne!(word, Word::Drain, "{half:?}");
        }
        assert_eq!(
            read(Format::Sse, &["data: 1\n", "event: error\ndata: {}\n\n"]),
            (1, Word::Broken, false)
        );
        // SSE fields may come in any order.
        assert_eq!(
            read(Format::Sse, &["id: 1\ndata: {}\nevent: error\n\n"]),
            (1, Word::Error, false)
        );
        assert_eq!(
            read(Format::Sse, &["event: tick\ndata: 1\ndata: 2\n\n"]),
            (1, Word::Nothing, false)
        );
        assert_eq!(
            read(Format::Jsonl, &["{\"a\":", "{\"drain\":{}}\n"]),
            (1, Word::Broken, false)
        );
        // In SSE, data that is not JSON is ordinary data.
        assert_eq!(
            read(Format::Sse, &["data: an \"error\"\n\n"]),
            (1, Word::Nothing, false)
        );
    }

    #[test]
    fn the_last_record_and_farewells_are_kept() {
        let last = |format, chunks: &[&str]| {
            let mut records = Records::new(format, &http::HeaderMap::new());
            for chunk in chunks {
                records.push(&Bytes::copy_from_slice(chunk.as_bytes()));
            }
            let last = String::from_utf8_lossy(records.last()).into_owned();
            (last, records.farewells())
        };
        assert_eq!(
            last(
                Format::Sse,
                &["data: 1\n\nda", "ta: 2\n\n", ": ping\n\n", "dat"]
            ),
            ("data: 2\n\n".to_owned(), 0)
        );
        assert_eq!(
            last(
                Format::Sse,
                &["event: drain\ndata: {}\n\n", "event: drain\ndata: {}\n\n"]
            )
            .1,
            2
        );
        assert_eq!(
            last(Format::Jsonl, &["{}\n{\"a\":1}"]),
            ("{\"a\":1}".to_owned(), 0)
        );
        assert_eq!(last(Format::Jsonl, &["{}\n{\"a\""]), ("{}\n".to_owned(), 0));
        let long = "a".repeat(5000);
        let (tail, _) = last(Format::Raw, &[&long, "bc", &"d".repeat(4000), "e"]);
        assert_eq!(tail.len(), 4096);
        assert!(
            tail.starts_with('a') && tail.contains("bc") && tail.ends_with("de"),
            "{tail}"
        );
    }

    #[test]
    fn half_a_record_at_the_end_is_seen() {
        assert_eq!(
            read(Format::Sse, &["data: 1\n\ndata: 2\n"]),
            (1, Word::Nothing, true)
        );
        assert_eq!(
            read(Format::Jsonl, &["{\"a\":1}\n{\"a\""]),
            (1, Word::Nothing, true)
        );
        assert_eq!(
            read(Format::Jsonl, &["{\"a\":1}\n{\"a\":2}"]),
            (1, Word::Nothing, false)
        );
        assert_eq!(read(Format::Raw, &["anything"]), (0, Word::Nothing, false));
    }

    #[test]
    fn lines_tell_errors_too() {
        assert_eq!(
            read(
                Format::Jsonl,
                &["{\"a\":1}\n", "{\"error\":{\"kind\":\"panic\"}}\n"]
            ),
            (2, Word::Error, false)
        );
        assert_eq!(
            read(Format::Jsonl, &["\u{1e}{\"drain\":{}}\n"]),
            (1, Word::Drain, false)
        );
        assert_eq!(
            read(Format::Jsonl, &["{\"error\":null}\n"]),
            (1, Word::Nothing, false)
        );
    }
}
