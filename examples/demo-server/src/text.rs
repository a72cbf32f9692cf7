//! The text that ships with the demo: the opening of "Alice's Adventures in Wonderland" by
//! Lewis Carroll (1865, public domain).

use std::sync::LazyLock;

/// The text as written: paragraphs with a blank line between.
pub(crate) const TEXT: &str = include_str!("alice.txt");

/// The text on one line, so that it needs no escapes in a JSON string.
static LINE: LazyLock<String> = LazyLock::new(|| {
    let mut line = TEXT.split_whitespace().collect::<Vec<_>>().join(" ");
    line.push(' ');
    line
});

/// The next `bytes` bytes of the text after excerpt `n - 1`. The text repeats.
pub(crate) fn excerpt(n: u64, bytes: usize) -> String {
    let start = (n.wrapping_mul(bytes as u64) % LINE.len() as u64) as usize;
    let mut out = String::with_capacity(bytes);
    let mut rest = &LINE[start..];
    while out.len() < bytes {
        out.push_str(&rest[..rest.len().min(bytes - out.len())]);
        rest = &LINE;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_needs_no_escape_in_json() {
        assert!(TEXT.is_ascii(), "excerpts are cut at any byte");
        assert!(!LINE.contains(['"', '\\']));
        assert!(!LINE.chars().any(|c| c.is_ascii_control()));
    }

    #[test]
    fn excerpts_follow_one_another() {
        let cut: String = (0..1_000).map(|n| excerpt(n, 97)).collect();
        let whole = excerpt(0, 97_000);
        assert_eq!(cut, whole);
        assert!(whole.starts_with("Alice was beginning to get very tired"));
        assert_eq!(excerpt(5, 0), "");
    }
}
