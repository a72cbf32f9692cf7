//! What a stream is told when the drain ends it.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tower_stream_body::StreamKind;

const MESSAGE: &str = "the server is shutting down";
/// gRPC's status code 14: the client may try again.
const UNAVAILABLE: &str = "14";

/// The last frame of a stream of this kind; `None` when its format has none.
///
/// The client is told when to come back; `retry` should be another time for each.
pub(crate) fn farewell(kind: StreamKind, retry: Duration) -> Option<Frame<Bytes>> {
    let ms = retry.as_millis();
    let object = format!("{{\"reason\":\"drain\",\"detail\":\"{MESSAGE}\",\"retry_ms\":{ms}}}");
    let text = match kind {
        // no `id:`, so that the client resumes after the last event it was sent
        StreamKind::Sse => format!("event: drain\ndata: {object}\nretry: {ms}\n\n"),
        StreamKind::JsonLines => format!("{{\"drain\":{object}}}\n"),
        // RFC 7464 begins each text with a record separator
        StreamKind::JsonSeq => format!("\u{1e}{{\"drain\":{object}}}\n"),
        StreamKind::Grpc => return Some(Frame::trailers(grpc_trailers())),
        StreamKind::GrpcWeb => return Some(Frame::data(grpc_web_trailers())),
        StreamKind::Other => return None,
    };
    Some(Frame::data(Bytes::from(text)))
}

fn grpc_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from_static(UNAVAILABLE));
    trailers.insert("grpc-message", HeaderValue::from_static(MESSAGE));
    trailers
}

/// The trailers as gRPC-Web sends them: in the body, in a frame of their own with the highest bit of its flags set.
fn grpc_web_trailers() -> Bytes {
    let text = format!("grpc-status: {UNAVAILABLE}\r\ngrpc-message: {MESSAGE}\r\n");
    let mut frame = BytesMut::with_capacity(5 + text.len());
    frame.put_u8(0x80);
    // a few dozen bytes
    frame.put_u32(text.len() as u32);
    frame.put_slice(text.as_bytes());
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: StreamKind) -> Vec<u8> {
        let frame = farewell(kind, Duration::from_millis(1500)).unwrap();
        frame.into_data().unwrap().to_vec()
    }

    #[test]
    fn a_grpc_web_trailer_frame_says_its_length() {
        let frame = text(StreamKind::GrpcWeb);
        assert_eq!(frame[0], 0x80);
        let length = u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize;
        assert_eq!(frame.len(), 5 + length);
        assert!(frame[5..].starts_with(b"grpc-status: 14\r\n"));
    }

    #[test]
    fn other_formats_have_no_farewell() {
        assert!(farewell(StreamKind::Other, Duration::ZERO).is_none());
    }

    #[test]
    fn a_json_text_sequence_keeps_its_separator() {
        let text = text(StreamKind::JsonSeq);
        assert!(text.starts_with(b"\x1e{\"drain\":{") && text.ends_with(b"}}\n"));
    }
}
