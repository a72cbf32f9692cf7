//! The `Cache-Control` of a stream.

use http::{HeaderMap, HeaderValue, header::CACHE_CONTROL};
use tower_stream_core::members;

/// The value if the handler has set none.
const STREAM: HeaderValue = HeaderValue::from_static("no-cache, no-transform");

/// The new value of `Cache-Control`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Guarded {
    /// `None` if the current value is strict enough.
    pub(crate) value: Option<HeaderValue>,
    /// Whether `no-transform` is added, because the handler has not set it.
    pub(crate) adds_no_transform: bool,
}

impl Guarded {
    /// The handler has set no `Cache-Control`.
    pub(crate) const NEW: Self = Self {
        value: Some(STREAM),
        adds_no_transform: true,
    };
}

/// Merges `no-cache` and `no-transform` into the directives of the handler, all of which stay (RFC 9111 section 5.2.2).
///
/// `no-store` makes `no-cache` unnecessary. `no-cache="field"` applies only to that field (section 5.2.2.4), so it does
/// not replace `no-cache`.
pub(crate) fn guarded(headers: &HeaderMap) -> Guarded {
    let mut lines = headers.get_all(CACHE_CONTROL).iter();
    // `no-cache` is the value that axum's `Sse` sets.
    let usual = lines.next().is_none_or(|line| line == "no-cache") && lines.next().is_none();
    if usual {
        return Guarded::NEW;
    }
    let (mut fresh, mut whole) = (false, false);
    let mut merged = Vec::new();
    for directive in headers.get_all(CACHE_CONTROL).iter().flat_map(directives) {
        let is = |name: &str| directive.eq_ignore_ascii_case(name.as_bytes());
        fresh |= is("no-cache") || is("no-store");
        whole |= is("no-transform");
        if !merged.is_empty() {
            merged.extend_from_slice(b", ");
        }
        merged.extend_from_slice(directive);
    }
    let missing = [(fresh, "no-cache"), (whole, "no-transform")];
    for (_, directive) in missing.iter().filter(|(there, _)| !there) {
        if !merged.is_empty() {
            merged.extend_from_slice(b", ");
        }
        merged.extend_from_slice(directive.as_bytes());
    }
    Guarded {
        // Parts of valid header values are valid.
        value: (!fresh || !whole).then(|| HeaderValue::from_bytes(&merged).unwrap_or(STREAM)),
        adds_no_transform: !whole,
    }
}

fn directives(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    members(line.as_bytes()).filter(|directive| !directive.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_the_handler_said_is_lost_or_weakened() {
        for (lines, merged) in [
            (&[][..], "no-cache, no-transform"),
            (&["no-cache"], "no-cache, no-transform"),
            (&["No-Cache", ""], "No-Cache, no-transform"),
            (&["no-store"], "no-store, no-transform"),
            (
                &["private, max-age=5"],
                "private, max-age=5, no-cache, no-transform",
            ),
            (&["private", "no-store"], "private, no-store, no-transform"),
            (&["no-transform"], "no-transform, no-cache"),
            (
                &["no-cache=\"a, no-store, b\" , x=\"\\\", no-cache\""],
                "no-cache=\"a, no-store, b\", x=\"\\\", no-cache\", no-cache, no-transform",
            ),
            // A backslash outside of a string does not escape.
            (&["x=\\, no-store"], "x=\\, no-store, no-transform"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
            }
            assert_eq!(guarded(&headers).value.unwrap(), merged, "{lines:?}");
        }
        for enough in ["no-store, no-transform", "NO-TRANSFORM,no-cache"] {
            let mut headers = HeaderMap::new();
            headers.append(CACHE_CONTROL, HeaderValue::from_static(enough));
            let guarded = guarded(&headers);
            assert!(guarded.value.is_none() && !guarded.adds_no_transform);
        }
    }
}
