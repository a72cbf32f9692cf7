//! The value of a digest.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::HeaderValue;

use crate::{Algorithm, algorithm::ErasedAlgorithm};

/// The longest digest, in bytes.
pub(crate) const MAX: usize = 64;
const BASE64_MAX: usize = MAX.div_ceil(3) * 4;

/// A digest and the name of its algorithm. Displayed in hex.
///
/// ```
/// use tower_stream_digest::{DigestValue, Md5};
///
/// let digest = DigestValue::of::<Md5>(b"hello");
/// assert_eq!(digest.to_string(), "5d41402abc4b2a76b9719d911017c592");
/// assert_eq!(digest.base64(), "XUFAKrxLKna5cZ2REBfFkg==");
/// assert_eq!(digest.content_digest(), "md5=:XUFAKrxLKna5cZ2REBfFkg==:");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DigestValue {
    algorithm: &'static str,
    len: usize,
    // Zero beyond `len`, so that the derived `PartialEq` is correct.
    bytes: [u8; MAX],
}

impl DigestValue {
    /// Hashes `data`.
    pub fn of<D: Algorithm>(data: impl AsRef<[u8]>) -> Self {
        Self::finish(D::new_with_prefix(data))
    }

    /// Finishes a hasher.
    pub fn finish<D: Algorithm>(hasher: D) -> Self {
        Self::new(ErasedAlgorithm::of::<D>(), &hasher.finalize()).expect("as long as it says")
    }

    /// Creates a digest of this algorithm from bytes, stored elsewhere for example. Returns `None` if the length is
    /// wrong.
    pub fn from_bytes<D: Algorithm>(digest: &[u8]) -> Option<Self> {
        Self::new(ErasedAlgorithm::of::<D>(), digest)
    }

    pub(crate) fn new(algorithm: ErasedAlgorithm, digest: &[u8]) -> Option<Self> {
        let len = digest.len();
        let mut bytes = [0; MAX];
        (len == algorithm.len).then(|| {
            bytes[..len].copy_from_slice(digest);
            Self {
                algorithm: algorithm.key,
                len,
                bytes,
            }
        })
    }

    /// The key of its algorithm, see [`Algorithm::KEY`].
    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// The bytes of the digest.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The digest in lower-case hex, as printed by `md5sum`.
    pub fn hex(&self) -> String {
        let mut text = [0; 2 * MAX];
        let text = &mut text[..2 * self.len];
        hex::encode_to_slice(self.as_bytes(), text).expect("two characters a byte");
        ascii(text).to_owned()
    }

    /// The digest in padded base64, as in `Content-MD5` (RFC 1864).
    pub fn base64(&self) -> String {
        self.base64_in(&mut [0; BASE64_MAX]).to_owned()
    }

    /// The digest as a member of `Content-Digest` or `Repr-Digest` (RFC 9530 sections 2 and 3).
    pub fn content_digest(&self) -> String {
        let base64 = &mut [0; BASE64_MAX];
        [self.algorithm, "=:", self.base64_in(base64), ":"].concat()
    }

    fn base64_in<'a>(&self, text: &'a mut [u8; BASE64_MAX]) -> &'a str {
        let len = BASE64.encode_slice(self.as_bytes(), text);
        ascii(&text[..len.expect("room for the longest digest")])
    }

    pub(crate) fn from_hex(algorithm: ErasedAlgorithm, text: &str) -> Option<Self> {
        Self::new(algorithm, &hex::decode(text).ok()?)
    }

    pub(crate) fn from_base64(algorithm: ErasedAlgorithm, text: &str) -> Option<Self> {
        Self::new(algorithm, &BASE64.decode(text).ok()?)
    }
}

fn ascii(text: &[u8]) -> &str {
    std::str::from_utf8(text).expect("ASCII")
}

/// Hex, base64 and keys are all visible ASCII.
pub(crate) fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("visible ASCII")
}

impl fmt::Display for DigestValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for DigestValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DigestValue({} {self})", self.algorithm)
    }
}
