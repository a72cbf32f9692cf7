//! gRPC's ways to say a status, and where its messages end.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::Failure;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The trailers (or, before a head, the headers) that carry the status.
pub(crate) fn trailers(failure: &Failure<'_>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(STATUS, HeaderValue::from(u16::from(failure.grpc_status())));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(&failure.message())) {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

/// The same as gRPC-Web's last frame: the trailers as text behind a prefix whose first byte is 0x80
/// (PROTOCOL-WEB.md, "trailers are encoded in the body").
pub(crate) fn web_trailers(failure: &Failure<'_>) -> Bytes {
    let mut text = BytesMut::new();
    for (name, value) in &trailers(failure) {
        text.put_slice(name.as_str().as_bytes());
        text.put_u8(b':');
        text.put_slice(value.as_bytes());
        text.put_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(5 + text.len());
    frame.put_u8(0x80);
    frame.put_u32(text.len() as u32);
    frame.put_slice(&text);
    frame.freeze()
}

/// `grpc-message` is percent-encoded (PROTOCOL-HTTP2.md): what is not printable ASCII, and `%`.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// Follows the length-prefixed messages of a gRPC-Web body: a frame of trailers may only stand between two.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// bytes of the prefix seen so far
    prefix: usize,
    /// bytes of the message still to come, once the prefix is whole
    left: u32,
}

impl Messages {
    pub(crate) fn push(&mut self, mut data: &[u8]) {
        while let Some((&byte, rest)) = data.split_first() {
            if self.prefix < 5 {
                if self.prefix > 0 {
                    self.left = self.left << 8 | u32::from(byte);
                }
                self.prefix += 1;
                data = rest;
            } else {
                let skip = data.len().min(self.left as usize);
                self.left -= skip as u32;
                data = &data[skip..];
            }
            if self.prefix == 5 && self.left == 0 {
                self.prefix = 0;
            }
        }
    }

    pub(crate) fn between(&self) -> bool {
        self.prefix == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_cut_anywhere_end_where_they_end() {
        let bytes = b"\0\0\0\0\x03abc\0\0\0\0\0\x01\0\0\x01\0";
        let whole = bytes.len() + 256;
        let bytes: Vec<u8> = bytes.iter().copied().chain([7; 256]).collect();
        for cut in 0..=whole {
            let mut messages = Messages::default();
            messages.push(&bytes[..cut]);
            assert_eq!(
                messages.between(),
                [0, 8, 13, whole].contains(&cut),
                "{cut}"
            );
            messages.push(&bytes[cut..]);
            assert!(messages.between(), "{cut}");
        }
    }

    #[test]
    fn a_message_is_printable_ascii() {
        assert_eq!(percent_encoded("50 % é\n"), "50 %25 %C3%A9%0A");
    }
}
