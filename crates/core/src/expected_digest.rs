//! The digest that a response head declares for its body.

use http::{HeaderMap, HeaderValue, header};

/// The digest that a response head declares for a body with one content coding.
///
/// The layer that verifies digests inserts it into the response extensions. A layer outside compares this content
/// coding with the one in the head: if they differ, the declared digest is not that of the bytes that are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedDigest {
    algorithm: &'static str,
    digest: Box<[u8]>,
    coding: Option<HeaderValue>,
}

impl ExpectedDigest {
    /// A digest of the body with these response headers. `algorithm` is the name that RFC 9530 registers (`md5`,
    /// `sha-256`).
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

    /// The bytes of the digest.
    #[must_use]
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }

    /// The `Content-Encoding` of the body with this digest; `None` if it has no content coding.
    #[must_use]
    pub fn coding(&self) -> Option<&HeaderValue> {
        self.coding.as_ref()
    }

    /// Returns whether a body with these headers has the same content coding, so that the digest may still apply.
    #[must_use]
    pub fn holds_for(&self, headers: &HeaderMap) -> bool {
        self.coding.as_ref() == headers.get(header::CONTENT_ENCODING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_under_its_own_coding_only() {
        let mut headers = HeaderMap::new();
        let expected = ExpectedDigest::new("md5", [0; 16], &headers);
        assert!(expected.holds_for(&headers));
        headers.insert("content-encoding", HeaderValue::from_static("gzip"));
        assert!(!expected.holds_for(&headers));
    }
}
