//! The names of streams and of their producers.

use std::{fmt, str::FromStr};

/// The id of a stream in a log: 128 random bits, written as 32 lowercase hexadecimal digits.
///
/// The text is safe in keys, subjects, paths and headers. It is not what a client gets: the client's `Stream-Id` also has a
/// code that proves that this server issued it to that client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId([u8; 16]);

impl StreamId {
    /// A new id from the random numbers of the operating system.
    ///
    /// # Panics
    ///
    /// Panics if the operating system gives no random numbers.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
        Self(bytes)
    }

    /// The id of these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes of the id.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Only the first digits: an id gives access to a stream, and should not be in logs.
impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

impl FromStr for StreamId {
    type Err = InvalidStreamId;

    fn from_str(text: &str) -> Result<Self, InvalidStreamId> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(InvalidStreamId);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| InvalidStreamId)?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// The text is not a [`StreamId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidStreamId;

impl fmt::Display for InvalidStreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a stream id has 32 lowercase hexadecimal digits")
    }
}

impl std::error::Error for InvalidStreamId {}

/// Which producer of a stream: the first one has epoch 1, and each takeover opens the next epoch. It is the fence of appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(u32);

impl Epoch {
    /// The epoch of a new stream: 1.
    pub const FIRST: Self = Self(1);

    /// The epoch with this number. `None` for 0.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match number {
            0 => None,
            number => Some(Self(number)),
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = StreamId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 32);
        let small = StreamId::from_bytes([0; 16]);
        assert_eq!(small.to_string().parse(), Ok(small));
        assert_ne!(StreamId::random(), id);
    }

    #[test]
    fn no_other_text_is_an_id() {
        let good = StreamId::from_bytes([0xab; 16]).to_string();
        for text in [
            "",
            "+0",
            &good[1..],
            &good.to_uppercase(),
            &format!("{good}0"),
            &format!("+{}", &good[1..]),
            &format!("{} ", &good[1..]),
        ] {
            assert_eq!(text.parse::<StreamId>(), Err(InvalidStreamId), "{text}");
        }
    }
}
