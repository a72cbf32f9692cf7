//! Checks the digests that a server sends.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, Version};
use md5::{Digest, Md5};
use sha2::Sha256;

/// Running digests of one response body, one for each algorithm that the response may announce.
pub(crate) struct Digests {
    md5: Option<Md5>,
    sha256: Option<Sha256>,
}

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digests")
            .field("md5", &self.md5.is_some())
            .field("sha256", &self.sha256.is_some())
            .finish()
    }
}

/// Result of comparing the announced digests with the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// The response announced no digest of a known algorithm.
    NoneAnnounced,
    /// All announced digests match.
    Right,
    /// At least one announced digest does not match.
    Wrong,
}

impl Digests {
    /// Selects the algorithms that the head announces, either by value or in its `Trailer` field.
    ///
    /// HTTP/2 trailers may carry a digest that no `Trailer` field announced: RFC 9110 section 6.6.2 only recommends
    /// that field. A response without a digest in its head is therefore hashed with every algorithm.
    pub(crate) fn new(head: &HeaderMap, version: Version) -> Self {
        let trailer = head
            .get("trailer")
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let in_trailer = trailer.to_ascii_lowercase();
        let announced = announced(head);
        let later = in_trailer.contains("digest")
            || in_trailer.contains("content-md5")
            || (version == Version::HTTP_2 && announced.is_empty());
        let has = |name: &str| announced.iter().any(|(algorithm, _)| *algorithm == name);
        Self {
            md5: (later || has("md5")).then(Md5::new),
            sha256: (later || has("sha-256")).then(Sha256::new),
        }
    }

    pub(crate) fn push(&mut self, chunk: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(chunk);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(chunk);
        }
    }

    /// Compares the digests with those in the head and the trailers.
    pub(crate) fn check(self, head: &HeaderMap, trailers: Option<&HeaderMap>) -> Check {
        let md5 = self.md5.map(|md5| md5.finalize().to_vec());
        let sha256 = self.sha256.map(|sha256| sha256.finalize().to_vec());
        let mut check = Check::NoneAnnounced;
        let all = announced(head)
            .into_iter()
            .chain(trailers.map(announced).into_iter().flatten());
        for (algorithm, expected) in all {
            let actual = if algorithm == "md5" { &md5 } else { &sha256 };
            // Not hashed: the head did not announce this algorithm.
            let Some(actual) = actual else { continue };
            if *actual != expected {
                return Check::Wrong;
            }
            check = Check::Right;
        }
        check
    }
}

/// Collects the digests of the bytes on the wire: `Content-Digest` (RFC 9530), `X-Content-MD5` and `Content-MD5`.
fn announced(fields: &HeaderMap) -> Vec<(&'static str, Vec<u8>)> {
    let text = |name: &str| {
        fields
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::trim)
    };
    let mut found = Vec::new();
    if let Some(Ok(digest)) = text("x-content-md5").map(hex::decode) {
        found.push(("md5", digest));
    }
    if let Some(Ok(digest)) = text("content-md5").map(|v| BASE64_STANDARD.decode(v)) {
        found.push(("md5", digest));
    }
    for member in text("content-digest").unwrap_or_default().split(',') {
        let Some((name, value)) = member.trim().split_once('=') else {
            continue;
        };
        let Some(value) = value.strip_prefix(':').and_then(|v| v.strip_suffix(':')) else {
            continue;
        };
        let Ok(digest) = BASE64_STANDARD.decode(value) else {
            continue;
        };
        match name {
            "md5" => found.push(("md5", digest)),
            "sha-256" => found.push(("sha-256", digest)),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    http::HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn check(head: &HeaderMap, trailers: Option<&HeaderMap>, body: &[u8]) -> Check {
        let mut digests = Digests::new(head, Version::HTTP_11);
        digests.push(body);
        digests.check(head, trailers)
    }

    #[test]
    fn every_form_is_checked() {
        for (name, value) in [
            ("x-content-md5", "5d41402abc4b2a76b9719d911017c592"),
            ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
            ("content-digest", "md5=:XUFAKrxLKna5cZ2REBfFkg==:"),
            (
                "content-digest",
                "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:, unknown=:AA==:",
            ),
        ] {
            let digest = fields(&[(name, value)]);
            assert_eq!(
                check(&digest, None, b"hello"),
                Check::Right,
                "{name}: {value}"
            );
            assert_eq!(
                check(&digest, None, b"hellO"),
                Check::Wrong,
                "{name}: {value}"
            );
            let head = fields(&[("trailer", "Content-Digest, X-Content-MD5, Content-MD5")]);
            assert_eq!(
                check(&head, Some(&digest), b"hello"),
                Check::Right,
                "{name}: {value}"
            );
            assert_eq!(
                check(&head, Some(&digest), b""),
                Check::Wrong,
                "{name}: {value}"
            );
        }
        assert_eq!(
            check(&HeaderMap::new(), None, b"hello"),
            Check::NoneAnnounced
        );
    }
}
