//! One record, to be read.

use std::borrow::Cow;

use serde_json::Value;

use crate::RecordFormat;

/// One record of a stream: a server-sent event, or a line.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    bytes: &'a [u8],
    format: RecordFormat,
}

impl<'a> Record<'a> {
    /// A record in these bytes, with or without the line ends that end it.
    #[must_use]
    pub const fn new(format: RecordFormat, bytes: &'a [u8]) -> Self {
        Self { bytes, format }
    }

    /// All of its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The name of an event: the value of its last `event:` line. `None` where lines are records.
    #[must_use]
    pub fn event(&self) -> Option<&'a [u8]> {
        self.field(b"event").last()
    }

    /// Whether an event has an `id:` line.
    #[must_use]
    pub fn has_id(&self) -> bool {
        self.field(b"id").next().is_some()
    }

    /// The data of an event: its `data:` lines, joined by LF (WHATWG HTML section 9.2.6). A line without its line end.
    #[must_use]
    pub fn data(&self) -> Cow<'a, [u8]> {
        if self.format == RecordFormat::Lines {
            // RFC 7464 begins each text with a record separator
            let line = self.bytes.trim_ascii();
            return Cow::Borrowed(line.strip_prefix(b"\x1e").unwrap_or(line));
        }
        let mut lines = self.field(b"data");
        let mut data = Cow::Borrowed(lines.next().unwrap_or_default());
        for line in lines {
            let data = data.to_mut();
            data.push(b'\n');
            data.extend_from_slice(line);
        }
        data
    }

    /// The data as JSON, if they are that.
    #[must_use]
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.data()).ok()
    }

    /// The values of the lines with this name.
    fn field(&self, name: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
        let bytes = match self.format {
            RecordFormat::Sse => self.bytes,
            RecordFormat::Lines => &[],
        };
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        // A CRLF adds an empty line, which has no field name and is skipped.
        let lines = bytes.split(|byte| matches!(byte, b'\n' | b'\r'));
        lines.filter_map(move |line| {
            let value = line.strip_prefix(name)?;
            match value.split_first() {
                None => Some(value),
                Some((b':', value)) => Some(value.strip_prefix(b" ").unwrap_or(value)),
                Some(_) => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_the_standard_says() {
        let event =
            b"\xef\xbb\xbfevent: a\r\nevent:b\r\ndata\r\ndata:  x\r\ndatas: no\r\nid:\r\n\r\n";
        let record = Record::new(RecordFormat::Sse, event);
        assert_eq!(record.event(), Some(&b"b"[..]));
        assert_eq!(&*record.data(), b"\n x");
        assert!(record.has_id());
        let open = Record::new(RecordFormat::Sse, b"data: [DONE]");
        assert_eq!(&*open.data(), b"[DONE]");
        assert!(!open.has_id());
    }

    #[test]
    fn a_line_is_its_data() {
        let record = Record::new(RecordFormat::Lines, b"\x1e{\"done\":true}\r\n");
        assert_eq!(record.json().unwrap()["done"], true);
        assert_eq!(record.event(), None);
    }
}
