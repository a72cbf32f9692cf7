//! What a handler promised of its bytes, and what stops being true when a layer changes them.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The digest that the response head promised of the bytes under one content coding.
///
/// The layer that verifies a promise puts it into the response extensions. A layer outside compares the coding with
/// the one in the head it sees: where they differ, the promised digest is not the digest of what will be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    algorithm: &'static str,
    digest: Box<[u8]>,
    coding: Option<HeaderValue>,
}

impl Promise {
    /// A digest under the name that RFC 9530 registers for its algorithm (`md5`, `sha-256`), of the bytes that the
    /// response with these headers holds.
    #[must_use]
    pub fn new(algorithm: &'static str, digest: impl Into<Box<[u8]>>, headers: &HeaderMap) -> Self {
        Self {
            algorithm,
            digest: digest.into(),
            coding: headers.get(header::CONTENT_ENCODING).cloned(),
        }
    }

    /// The name of the algorithm.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// The digest, as bytes.
    #[must_use]
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }

    /// The `Content-Encoding` of the bytes that the digest is of; `None` for plain bytes.
    #[must_use]
    pub fn coding(&self) -> Option<&HeaderValue> {
        self.coding.as_ref()
    }

    /// Whether the bytes that leave with these headers are still those that the digest is of, as far as the content
    /// coding tells.
    #[must_use]
    pub fn holds_for(&self, headers: &HeaderMap) -> bool {
        self.coding.as_ref() == headers.get(header::CONTENT_ENCODING)
    }
}

/// Every field that holds a digest of a body, or of the representation that it is.
///
/// `Repr-Digest` (RFC 9530 section 3) is among them, although it speaks of the selected representation and not of the
/// content of one message: the representation's data is what the content coding made of it (RFC 9110 section 8.1), so a
/// layer that compresses, or changes a byte, has selected another one. It is true still where only the *message* is
/// another: of a 206 it is the digest of the whole. No layer that only announces a digest may drop it.
///
/// `Digest` (RFC 3230) is `Repr-Digest`'s predecessor; `X-Segment-Digest` is of this workspace.
const DIGESTS: [HeaderName; 6] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("x-content-md5"),
    HeaderName::from_static("x-segment-digest"),
    HeaderName::from_static("digest"),
];

/// Drops every digest that a head or trailers have, by whatever algorithm: they are of other bytes than those that will be
/// sent. `Trailer` announces them no more.
pub fn digests_changed(headers: &mut HeaderMap) {
    for name in DIGESTS {
        headers.remove(name);
    }
    let is_digest = |name: &str| {
        DIGESTS
            .iter()
            .any(|digest| name.trim().eq_ignore_ascii_case(digest.as_str()))
    };
    let announced = |line: &HeaderValue| line.to_str().is_ok_and(|l| l.split(',').any(is_digest));
    if headers.get_all(header::TRAILER).iter().any(announced)
        && let header::Entry::Occupied(trailer) = headers.entry(header::TRAILER)
    {
        let (_, lines) = trailer.remove_entry_mult();
        let others: Vec<_> = lines
            .filter_map(|line| {
                let names = line.to_str().ok()?.split(',').map(str::trim);
                let others: Vec<_> = names.filter(|name| !is_digest(name)).collect();
                HeaderValue::try_from(others.join(", ")).ok()
            })
            .filter(|line| !line.is_empty())
            .collect();
        for line in others {
            headers.append(header::TRAILER, line);
        }
    }
}

/// Drops what a head said of bytes that a layer is about to change: `Content-Length`, every digest, `Accept-Ranges`
/// and a strong `ETag`. A weak one (`W/".."`, RFC 9110 section 8.8.1) stays: it never spoke of bytes.
pub fn bytes_changed(headers: &mut HeaderMap) {
    digests_changed(headers);
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::ACCEPT_RANGES);
    let strong = |tag: &HeaderValue| !tag.as_bytes().starts_with(b"W/");
    if headers.get(header::ETAG).is_some_and(strong) {
        headers.remove(header::ETAG);
    }
}

/// Takes over what is still true when an answer of another kind replaces a head: `Connection`, `Vary` and
/// `Access-Control-*`, without which a browser could not read the answer.
pub fn head_replaced(old: &HeaderMap, new: &mut HeaderMap) {
    for (name, value) in old {
        let stays = name == header::CONNECTION
            || name == header::VARY
            || name.as_str().starts_with("access-control-");
        if stays {
            new.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_spoke_of_the_bytes_goes_and_the_rest_stays() {
        let mut headers = HeaderMap::new();
        for name in [
            "content-length",
            "content-md5",
            "x-content-md5",
            "content-digest",
            "repr-digest",
            "x-segment-digest",
            "digest",
            "accept-ranges",
            "etag",
            "content-type",
            "last-modified",
        ] {
            headers.insert(name, HeaderValue::from_static("\"1\""));
        }
        bytes_changed(&mut headers);
        let mut left: Vec<_> = headers.keys().map(|k| k.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "last-modified"]);
        headers.insert("etag", HeaderValue::from_static("W/\"1\""));
        bytes_changed(&mut headers);
        assert!(headers.contains_key("etag"));
    }

    #[test]
    fn trailers_announce_no_digest_of_other_bytes() {
        for (lines, left) in [
            (&["X-Content-MD5"][..], &[][..]),
            (&["grpc-status"], &["grpc-status"]),
            (
                &[
                    "x-sum , content-digest,grpc-status",
                    "Content-MD5",
                    "x-other",
                ],
                &["x-sum, grpc-status", "x-other"],
            ),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("trailer", HeaderValue::from_static(line));
            }
            digests_changed(&mut headers);
            assert_eq!(headers.get_all("trailer").iter().collect::<Vec<_>>(), left);
        }
    }

    #[test]
    fn a_replaced_head_keeps_what_is_not_of_its_body() {
        let mut old = HeaderMap::new();
        for name in [
            "access-control-allow-origin",
            "connection",
            "content-length",
            "content-type",
            "set-cookie",
            "vary",
        ] {
            old.append(name, HeaderValue::from_static("x"));
        }
        let mut new = HeaderMap::new();
        new.insert("vary", HeaderValue::from_static("y"));
        head_replaced(&old, &mut new);
        let mut kept: Vec<_> = new.keys().map(|k| k.as_str()).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["access-control-allow-origin", "connection", "vary"]);
        assert_eq!(new.get_all("vary").iter().collect::<Vec<_>>(), ["y", "x"]);
    }

    #[test]
    fn a_promise_holds_under_its_own_coding_only() {
        let mut headers = HeaderMap::new();
        let promise = Promise::new("md5", [0; 16], &headers);
        assert!(promise.holds_for(&headers));
        headers.insert("content-encoding", HeaderValue::from_static("gzip"));
        assert!(!promise.holds_for(&headers));
    }
}
