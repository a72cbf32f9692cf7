//! Tokens: a word or a run of one punctuation mark, with the white space before it.

/// Splits `text` into tokens whose concatenation is `text`.
pub(super) fn split(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (token, rest) = text.split_at(first_len(text));
        text = rest;
        (!token.is_empty()).then_some(token)
    })
}

/// Number of tokens in `text`.
pub(crate) fn count(text: &str) -> u64 {
    split(text).count() as u64
}

fn first_len(text: &str) -> usize {
    let mut chars = text
        .char_indices()
        .skip_while(|(_, c)| c.is_whitespace())
        .peekable();
    let Some((_, first)) = chars.next() else {
        return text.len();
    };
    let mut before = first;
    while let Some((at, c)) = chars.next() {
        let goes_on = if first.is_alphanumeric() {
            // An apostrophe or hyphen inside of a word belongs to it: `I've`.
            let between = before.is_alphanumeric()
                && chars.peek().is_some_and(|(_, next)| next.is_alphanumeric());
            c.is_alphanumeric() || (matches!(c, '\'' | '-') && between)
        } else {
            c == first
        };
        if !goes_on {
            return at;
        }
        before = c;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<&str> {
        split(text).collect()
    }

    #[test]
    fn words_keep_the_space_before_and_what_is_inside() {
        assert_eq!(
            tokens("'I've a daisy-chain--ha!!' she  said.\n"),
            [
                "'",
                "I've",
                " a",
                " daisy-chain",
                "--",
                "ha",
                "!!",
                "'",
                " she",
                "  said",
                ".",
                "\n"
            ]
        );
    }

    #[test]
    fn tokens_put_together_are_the_text() {
        for text in [
            "",
            " ",
            "a",
            "\u{e9}t\u{e9} \u{1f407}\u{1f407}!",
            crate::text::TEXT,
        ] {
            assert_eq!(tokens(text).concat(), text);
            assert!(tokens(text).iter().all(|token| !token.is_empty()));
        }
        assert_eq!(count("\u{e9}t\u{e9} \u{1f407}\u{1f407}!"), 3);
    }
}
