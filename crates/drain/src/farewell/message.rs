//! What a stream is told when the drain ends it.

use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body::Frame;
use tower_stream_core::{StreamKind, grpc};

pub(crate) const MESSAGE: &str = "the server is shutting down";
/// gRPC's status code 14: the client may try again.
pub(super) const UNAVAILABLE: u8 = 14;

/// The last frame of a stream of this kind; `None` when its format has none, or the client would not receive it.
///
/// The client is told when to come back; `retry` should be another time for each.
pub(crate) fn farewell(
    kind: StreamKind,
    version: Version,
    retry: Duration,
) -> Option<Frame<Bytes>> {
    let ms = retry.as_millis();
    let object = format!("{{\"reason\":\"drain\",\"detail\":\"{MESSAGE}\",\"retry_ms\":{ms}}}");
    let trailers = || grpc::trailers(UNAVAILABLE, MESSAGE);
    let text = match kind {
        // no `id:`, so that the client resumes after the last event it was sent
        StreamKind::Sse => format!("event: drain\ndata: {object}\nretry: {ms}\n\n"),
        StreamKind::JsonLines => format!("{{\"drain\":{object}}}\n"),
        // RFC 7464 begins each text with a record separator
        StreamKind::JsonSeq => format!("\u{1e}{{\"drain\":{object}}}\n"),
        StreamKind::Grpc if !grpc::trailers_arrive(version) => return None,
        StreamKind::Grpc => return Some(Frame::trailers(trailers())),
        StreamKind::GrpcWeb => return Some(Frame::data(grpc::web_trailers(&trailers()))),
        StreamKind::Other => return None,
    };
    Some(Frame::data(Bytes::from(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: StreamKind) -> Vec<u8> {
        let frame = farewell(kind, Version::HTTP_11, Duration::from_millis(1500)).unwrap();
        frame.into_data().unwrap().to_vec()
    }

    #[test]
    fn other_formats_have_no_farewell() {
        assert!(farewell(StreamKind::Other, Version::HTTP_2, Duration::ZERO).is_none());
    }

    #[test]
    fn a_json_text_sequence_keeps_its_separator() {
        let text = text(StreamKind::JsonSeq);
        assert!(text.starts_with(b"\x1e{\"drain\":{") && text.ends_with(b"}}\n"));
    }
}
