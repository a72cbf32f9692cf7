//! Ids that the ids layer sets and other layers read.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, atomic::Ordering},
};

use http::{Extensions, HeaderValue};

use crate::exchange::{Cell, Exchange};

/// The id of a request: 1 to 128 of `[A-Za-z0-9._+/=@-]`, so it is safe in a header, a log line and the query of a URL.
///
/// With the ids layer, a handler gets it by its extractor, or by [`RequestId::of`].
///
/// ```
/// use tower_stream_core::{InvalidRequestId, RequestId};
///
/// let id: RequestId = "order-17".parse().unwrap();
/// assert_eq!(id.as_str(), "order-17");
/// assert_eq!("two\nlines".parse::<RequestId>(), Err(InvalidRequestId::Byte(b'\n')));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The maximum length of an id, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The id of the request with these extensions, if a layer has set one.
    #[must_use]
    pub fn of(request: &Extensions) -> Option<&Self> {
        Exchange::get(request)?.request_id()
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The id as a header value, which is cheap to clone.
    #[must_use]
    pub fn as_header_value(&self) -> &HeaderValue {
        &self.0
    }
}

/// Uses the UUID as the id, in the lower-case format of RFC 9562 section 4.
#[cfg(feature = "uuid")]
impl From<uuid::Uuid> for RequestId {
    fn from(uuid: uuid::Uuid) -> Self {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        uuid.hyphenated().encode_lower(&mut text);
        // The text and its reference count share one allocation, so a clone makes none.
        let value = HeaderValue::from_maybe_shared(bytes::Bytes::from_owner(text));
        Self(value.expect("hexadecimal digits and hyphens"))
    }
}

impl TryFrom<HeaderValue> for RequestId {
    type Error = InvalidRequestId;

    fn try_from(value: HeaderValue) -> Result<Self, InvalidRequestId> {
        let bytes = value.as_bytes();
        if bytes.is_empty() {
            return Err(InvalidRequestId::Empty);
        }
        if bytes.len() > Self::MAX_LEN {
            return Err(InvalidRequestId::TooLong(bytes.len()));
        }
        // No early exit: an id is short and nearly always valid.
        let good = bytes
            .iter()
            .fold(true, |good, byte| good & ID_BYTES[usize::from(*byte)]);
        match bytes.iter().find(|byte| !good && !is_id_byte(**byte)) {
            Some(byte) => Err(InvalidRequestId::Byte(*byte)),
            None => Ok(Self(value)),
        }
    }
}

impl FromStr for RequestId {
    type Err = InvalidRequestId;

    fn from_str(text: &str) -> Result<Self, InvalidRequestId> {
        match text.bytes().find(|b| !is_id_byte(*b)) {
            Some(byte) => Err(InvalidRequestId::Byte(byte)),
            // All bytes are visible ASCII, so only the length can be wrong.
            None => HeaderValue::from_str(text)
                .map_err(|_| InvalidRequestId::Empty)
                .and_then(Self::try_from),
        }
    }
}

const ID_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte as usize] = is_id_byte(byte);
        byte += 1;
    }
    table
};

const fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'+' | b'/' | b'=' | b'@' | b'-')
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

/// Why a text is not a valid [`RequestId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidRequestId {
    /// It is empty.
    Empty,
    /// It is longer than [`RequestId::MAX_LEN`]: it has this many bytes.
    TooLong(usize),
    /// It contains this byte, which is not one of `[A-Za-z0-9._+/=@-]`.
    Byte(u8),
}

impl fmt::Display for InvalidRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a request id must not be empty"),
            Self::TooLong(len) => write!(
                f,
                "a request id has at most {} bytes, not {len}",
                RequestId::MAX_LEN
            ),
            Self::Byte(byte) => write!(f, "a request id must not have the byte 0x{byte:02x}"),
        }
    }
}

impl std::error::Error for InvalidRequestId {}

/// The sequence numbers of one request. Its chunks and its log lines take numbers from the same sequence, so that both
/// have one order.
///
/// The first number is 1. Clones share the sequence.
#[derive(Clone)]
pub struct Sequence(pub(crate) Arc<Cell>);

impl Sequence {
    /// Creates a sequence that starts at 1.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Cell::of_ids(None, None)))
    }

    /// The sequence of the request with these extensions, if the request passed a layer of `tower-stream`.
    #[must_use]
    pub fn of(request: &Extensions) -> Option<Self> {
        Exchange::get(request).map(Exchange::sequence)
    }

    /// Takes the next number.
    // Not an iterator: the sequence never ends, and taking a number needs no `&mut`.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&self) -> u64 {
        self.0.numbers().fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number that was taken last, or 0.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.0.numbers().load(Ordering::Relaxed)
    }
}

impl Default for Sequence {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sequence").field(&self.last()).finish()
    }
}

#[cfg(feature = "axum")]
mod extract {
    use axum_core::extract::FromRequestParts;
    use http::request::Parts;

    use super::{RequestId, Sequence};
    use crate::MissingLayer;

    const LAYER: &str = "RequestIdLayer of tower-stream-ids";

    impl<S: Sync> FromRequestParts<S> for RequestId {
        type Rejection = MissingLayer;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
            let id = Self::of(&parts.extensions).cloned();
            id.ok_or(MissingLayer::new("request id", LAYER))
        }
    }

    impl<S: Sync> FromRequestParts<S> for Sequence {
        type Rejection = MissingLayer;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
            Self::of(&parts.extensions).ok_or(MissingLayer::new("sequence", LAYER))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_accepted_or_refused_as_the_contract_says() {
        let good = b"abcxyzABCXYZ0189._+/=@-";
        for byte in 0..=u8::MAX {
            let Ok(value) = HeaderValue::from_bytes(&[byte]) else {
                continue;
            };
            let listed = good.contains(&byte) || byte.is_ascii_alphanumeric();
            assert_eq!(RequestId::try_from(value).is_ok(), listed, "{byte:#x}");
        }
    }

    #[test]
    fn length_is_bounded() {
        assert!("a".repeat(128).parse::<RequestId>().is_ok());
        assert_eq!(
            "a".repeat(129).parse::<RequestId>(),
            Err(InvalidRequestId::TooLong(129))
        );
        assert_eq!("".parse::<RequestId>(), Err(InvalidRequestId::Empty));
        assert_eq!("é".parse::<RequestId>(), Err(InvalidRequestId::Byte(0xc3)));
    }

    #[test]
    fn clones_share_the_numbers() {
        let sequence = Sequence::new();
        let other = sequence.clone();
        assert_eq!(
            (
                sequence.last(),
                sequence.next(),
                other.next(),
                sequence.last()
            ),
            (0, 1, 2, 2)
        );
    }

    #[cfg(feature = "axum")]
    #[tokio::test]
    async fn the_rejection_names_the_missing_layer() {
        use axum_core::extract::FromRequestParts;
        let (mut parts, ()) = http::Request::new(()).into_parts();
        let error = RequestId::from_request_parts(&mut parts, &())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("RequestIdLayer"));
        Exchange::of(&mut parts.extensions).set_request_id("a1".parse().unwrap());
        assert_eq!(
            RequestId::from_request_parts(&mut parts, &())
                .await
                .unwrap()
                .as_str(),
            "a1"
        );
    }
}
