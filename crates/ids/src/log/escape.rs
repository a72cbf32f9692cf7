//! Text that stays inside of its line and its quotes.

use std::fmt::{self, Write};

/// Characters that end a line for some reader, or change what a terminal shows besides drawing a character.
pub(super) fn is_unsafe(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        | '\u{2028}' | '\u{2029}'
        // direction overrides: they make a line read as another
        | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes text as the inside of a JSON string.
pub(super) struct JsonString<'a, W: ?Sized>(pub(super) &'a mut W);

/// Bytes at which a character begins that may have to be escaped.
const SUSPECT: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table[0x7f] = true;
    // the first bytes of U+0080..=U+00BF and of U+2000..=U+2FFF
    table[0xc2] = true;
    table[0xe2] = true;
    table
};

impl<W: Write + ?Sized> Write for JsonString<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut written = 0;
        for (at, byte) in text.bytes().enumerate() {
            if !SUSPECT[usize::from(byte)] {
                continue;
            }
            let Some(c) = text[at..].chars().next() else {
                break;
            };
            if !is_unsafe(c) && !matches!(c, '"' | '\\') {
                continue;
            }
            self.0.write_str(&text[written..at])?;
            written = at + c.len_utf8();
            match c {
                '"' => self.0.write_str("\\\"")?,
                '\\' => self.0.write_str("\\\\")?,
                '\n' => self.0.write_str("\\n")?,
                '\r' => self.0.write_str("\\r")?,
                '\t' => self.0.write_str("\\t")?,
                c => write!(self.0, "\\u{:04x}", u32::from(c))?,
            }
        }
        self.0.write_str(&text[written..])
    }
}

/// An error and its sources, on one line.
pub(super) struct Chain<'a>(pub(super) &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        JsonString(&mut out).write_str(text).unwrap();
        out
    }

    #[test]
    fn every_character_reads_back_and_no_unsafe_one_is_left() {
        for c in '\0'..=char::MAX {
            let out = escaped(&c.to_string());
            assert!(!out.contains(is_unsafe), "{c:?}");
            if (c as u32) < 0x3000 {
                let back: String = serde_json::from_str(&format!("\"{out}\"")).unwrap();
                assert_eq!(back, c.to_string());
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in "(\\PC|[\"\\\\\n\r\t\u{85}\u{2028}\u{202e}é])*") {
            let back: String = serde_json::from_str(&format!("\"{}\"", escaped(&text))).unwrap();
            prop_assert_eq!(back, text);
        }
    }
}
