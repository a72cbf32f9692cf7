//! The framing of gRPC and gRPC-Web: where a message ends, and how a response says its status.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The trailers that end a gRPC response with this status code, or the headers of a Trailers-Only response.
///
/// `message` may hold any text: `grpc-message` is percent-encoded (PROTOCOL-HTTP2.md, "Responses").
#[must_use]
pub fn trailers(status: u8, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(STATUS, HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(message)) {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

/// The last frame of a gRPC-Web response: these trailers as text behind a prefix whose first byte is 0x80
/// (PROTOCOL-WEB.md, "Protocol differences vs gRPC over HTTP2").
#[must_use]
pub fn web_trailers(trailers: &HeaderMap) -> Bytes {
    let mut text = BytesMut::new();
    for (name, value) in trailers {
        text.put_slice(name.as_str().as_bytes());
        text.put_u8(b':');
        text.put_slice(value.as_bytes());
        text.put_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(5 + text.len());
    frame.put_u8(0x80);
    // trailers are far shorter than 4 GiB
    frame.put_u32(text.len() as u32);
    frame.put_slice(&text);
    frame.freeze()
}

/// The content type of a request, if it is one of gRPC's or gRPC-Web's: what a Trailers-Only response repeats.
#[must_use]
pub fn content_type(request: &HeaderMap) -> Option<&HeaderValue> {
    let name = b"application/grpc";
    let value = request.get(header::CONTENT_TYPE)?;
    let (start, rest) = value.as_bytes().split_at_checked(name.len())?;
    let ends = matches!(rest.first(), None | Some(b'+' | b';' | b'-' | b' '));
    (start.eq_ignore_ascii_case(name) && ends).then_some(value)
}

/// Whether a client that spoke this version receives trailers.
///
/// Over HTTP/1 hyper drops trailers that the client did not ask for with `TE: trailers`, and then the response ends
/// cleanly: a gRPC client would read a truncated response as a success. So a response whose outcome is in its trailers
/// is aborted over HTTP/1.
#[must_use]
pub fn trailers_arrive(version: Version) -> bool {
    version >= Version::HTTP_2
}

/// `grpc-message` is percent-encoded: everything but printable ASCII, and `%` itself.
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

/// Finds the ends of length-prefixed messages, in bytes that are cut anywhere.
///
/// The status of a gRPC or gRPC-Web response may follow a whole message only: after half of one a gRPC-Web client
/// would read it as the rest of the message.
#[derive(Debug, Default)]
pub struct Messages {
    /// how many bytes of the 5-byte prefix have come
    prefix: usize,
    /// how many bytes of the message are still to come, once the prefix is whole
    left: u32,
}

impl Messages {
    /// Takes the next bytes of the body.
    pub fn push(&mut self, mut data: &[u8]) {
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

    /// Whether the bytes so far end with a whole message, or there were none.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
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
                messages.at_boundary(),
                [0, 8, 13, whole].contains(&cut),
                "{cut}"
            );
            messages.push(&bytes[cut..]);
            assert!(messages.at_boundary(), "{cut}");
        }
    }

    #[test]
    fn a_web_trailer_frame_says_its_length() {
        let frame = web_trailers(&trailers(14, "bye"));
        assert_eq!(frame[..5], [0x80, 0, 0, 0, 34]);
        assert_eq!(&frame[5..], b"grpc-status:14\r\ngrpc-message:bye\r\n");
    }

    #[test]
    fn content_types() {
        for (value, grpc) in [
            ("application/grpc", true),
            ("application/GRPC+proto", true),
            ("application/grpc-web-text", true),
            ("application/grpcx", false),
            ("application/json", false),
            ("a", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(content_type(&headers).is_some(), grpc, "{value}");
        }
    }

    #[test]
    fn a_message_is_printable_ascii() {
        assert_eq!(percent_encoded("50 % é\n"), "50 %25 %C3%A9%0A");
    }
}
