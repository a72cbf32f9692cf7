//! The digest that a head announced of its body.

use http::{HeaderMap, HeaderValue, header};

/// The digest that a response head announced of the bytes under one content coding.
///
/// The layer that verifies digests puts it into the response extensions. A layer outside compares the coding with
/// the one in the head it sees: where they differ, the announced digest is not the digest of what will be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedDigest {
    algorithm: &'static str,
    digest: Box<[u8]>,
    coding: Option<HeaderValue>,
}

impl ExpectedDigest {
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
