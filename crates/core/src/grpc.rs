//! The framing of gRPC and gRPC-Web: where a message ends, and where a response has its status.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, Version, header};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

use crate::StreamKind;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The trailers that end a gRPC response with this status code, or the headers of a Trailers-Only response.
///
/// `message` may be any text, because `grpc-message` is percent-encoded (PROTOCOL-HTTP2.md, "Responses").
#[must_use]
pub fn trailers(status: u8, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(STATUS, HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::try_from(utf8_percent_encode(message, ESCAPED).to_string()) {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

/// The last frame of a gRPC-Web response: these trailers as text, after a prefix whose first byte is 0x80
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
    // Trailers are far shorter than 4 GiB.
    frame.put_u32(text.len() as u32);
    frame.put_slice(&text);
    frame.freeze()
}

/// The content type in these headers, if it is that of gRPC or gRPC-Web. A Trailers-Only response repeats that of its
/// request.
#[must_use]
pub fn content_type(headers: &HeaderMap) -> Option<&HeaderValue> {
    let value = headers.get(header::CONTENT_TYPE)?;
    kind(value.as_bytes()).map(|_| value)
}

/// The kind of a body with this content type, if it is that of gRPC or gRPC-Web. `application/grpc-web-text` is
/// [`StreamKind::Other`], because its base64 encoding hides the frames.
#[inline]
pub(crate) fn kind(content_type: &[u8]) -> Option<StreamKind> {
    let name = b"application/grpc";
    let (start, rest) = content_type.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'+' | b';' | b' ' | b'\t'));
    let variant = &rest[..end.unwrap_or(rest.len())];
    let is = |name: &[u8]| variant.eq_ignore_ascii_case(name);
    match variant {
        [] => Some(StreamKind::Grpc),
        _ if is(b"-web") => Some(StreamKind::GrpcWeb),
        _ if is(b"-web-text") => Some(StreamKind::Other),
        _ => None,
    }
}

/// The response to a call that failed before its first message, with the status in the head (PROTOCOL-HTTP2.md,
/// "Trailers-Only"). `content_type` is that of the request.
#[must_use]
pub fn trailers_only(content_type: HeaderValue, status: u8, message: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.headers_mut() = trailers(status, message);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    response
}

/// The status code in these trailers, or in the head of a Trailers-Only response. `None` without a `grpc-status`;
/// UNKNOWN (2) if its value is not a code.
#[must_use]
pub fn status(headers: &HeaderMap) -> Option<u8> {
    let text = headers.get(STATUS)?.to_str();
    Some(text.ok().and_then(|text| text.parse().ok()).unwrap_or(2))
}

/// The name of a status code, `NOT_FOUND` for 5. A code that gRPC does not define is `UNKNOWN`.
#[must_use]
pub const fn status_name(code: u8) -> &'static str {
    match code {
        0 => "OK",
        1 => "CANCELLED",
        3 => "INVALID_ARGUMENT",
        4 => "DEADLINE_EXCEEDED",
        5 => "NOT_FOUND",
        6 => "ALREADY_EXISTS",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        10 => "ABORTED",
        11 => "OUT_OF_RANGE",
        12 => "UNIMPLEMENTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        15 => "DATA_LOSS",
        16 => "UNAUTHENTICATED",
        _ => "UNKNOWN",
    }
}

/// Returns whether a status code is an error of the server: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL,
/// UNAVAILABLE and DATA_LOSS (OpenTelemetry's semantic conventions for gRPC, server span).
#[must_use]
pub const fn is_server_error(code: u8) -> bool {
    matches!(code, 2 | 4 | 12..=15 | 17..)
}

/// The decoded `grpc-message`, or otherwise the name of the code.
pub(crate) fn message(headers: &HeaderMap, code: u8) -> String {
    match headers.get(MESSAGE) {
        Some(message) if !message.is_empty() => {
            let decoded = percent_decode(message.as_bytes());
            decoded.decode_utf8_lossy().into_owned()
        }
        _ => status_name(code).to_owned(),
    }
}

/// The fields of a gRPC-Web trailer frame.
pub(crate) fn web_fields(text: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            fields.insert(name, value);
        }
    }
    fields
}

/// Returns whether a client of this HTTP version receives trailers.
///
/// Over HTTP/1, hyper drops trailers unless the client sent `TE: trailers`, and then ends the response cleanly: a gRPC
/// client would take a truncated response for a success. A response whose status is in its trailers is therefore
/// aborted over HTTP/1.
#[must_use]
pub fn trailers_arrive(version: Version) -> bool {
    version >= Version::HTTP_2
}

/// The characters that `grpc-message` escapes: everything except printable ASCII, and `%` itself.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// Finds the ends of length-prefixed messages in a body that is split into arbitrary chunks.
///
/// The status of a gRPC or gRPC-Web response may only follow a complete message: in the middle of one, a gRPC-Web
/// client would read it as the rest of the message.
#[derive(Debug, Default)]
pub struct Messages {
    /// Number of bytes of the 5-byte prefix received.
    prefix: usize,
    /// Number of bytes missing in the message, once the prefix is complete.
    left: u32,
    /// Whether the prefix is that of a gRPC-Web trailer frame of whose text nothing has been received.
    trailers: bool,
}

impl Messages {
    /// Reads the next bytes of the body. Returns the text of a gRPC-Web trailer frame if these bytes contain all of it.
    pub fn push<'a>(&mut self, mut data: &'a [u8]) -> Option<&'a [u8]> {
        let mut trailers = None;
        while let Some((&byte, rest)) = data.split_first() {
            if self.prefix < 5 {
                match self.prefix {
                    0 => self.trailers = byte == 0x80,
                    _ => self.left = self.left << 8 | u32::from(byte),
                }
                self.prefix += 1;
                data = rest;
            } else {
                let (message, rest) = data.split_at(data.len().min(self.left as usize));
                self.left -= message.len() as u32;
                if self.trailers && self.left == 0 {
                    trailers = Some(message);
                }
                self.trailers = false;
                data = rest;
            }
            if self.prefix == 5 && self.left == 0 {
                self.prefix = 0;
            }
        }
        trailers
    }

    /// Returns whether the bytes so far end with a complete message, or are empty.
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
            ("application/grpc;charset=utf-8", true),
            ("application/grpcx", false),
            ("application/grpc-x", false),
            ("application/json", false),
            ("a", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(content_type(&headers).is_some(), grpc, "{value}");
        }
    }

    #[test]
    fn a_status_is_read_where_it_is_written() {
        for (code, message) in [(0, ""), (5, "no such café: 100 %"), (14, "bye")] {
            let trailers = trailers(code, message);
            assert_eq!(status(&trailers), Some(code));
            let expected = if message.is_empty() { "OK" } else { message };
            assert_eq!(super::message(&trailers, code), expected);

            let frame = web_trailers(&trailers);
            let mut messages = Messages::default();
            let body = [b"\0\0\0\0\x01a", &frame[..]].concat();
            assert_eq!(web_fields(messages.push(&body).unwrap()), trailers);
            // After its prefix, and split where it would have to be buffered.
            assert_eq!(messages.push(&frame[..5]), None);
            assert_eq!(messages.push(&frame[5..]), Some(&frame[5..]));
            assert_eq!(messages.push(&frame[..9]), None);
            assert_eq!(messages.push(&frame[9..]), None);
            assert!(messages.at_boundary());
        }
        let mut bad = HeaderMap::new();
        assert_eq!(status(&bad), None);
        bad.insert(STATUS, HeaderValue::from_static("-1"));
        assert_eq!(status(&bad), Some(2));
        bad.insert(MESSAGE, HeaderValue::from_static("%zz%4"));
        assert_eq!(super::message(&bad, 2), "%zz%4");
    }

    #[test]
    fn a_trailers_only_response_speaks_the_type_of_its_request() {
        let content_type = HeaderValue::from_static("application/grpc-web+proto");
        let response = trailers_only(content_type.clone(), 14, "bye");
        assert_eq!(response.headers()[header::CONTENT_TYPE], content_type);
        assert_eq!(status(response.headers()), Some(14));
        assert_eq!(
            (response.status().as_u16(), response.body().len()),
            (200, 0)
        );
    }

    #[test]
    fn a_message_is_printable_ascii() {
        let trailers = trailers(2, "50 % é\n\u{7f}");
        assert_eq!(trailers[MESSAGE], "50 %25 %C3%A9%0A%7F");
    }
}
