//! What a stream is told when the drain ends it.

use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Version};
use http_body::Frame;
use tower_stream_core::{ErrorReport, Exchange, FaultKind, StreamKind, grpc};

pub(crate) const MESSAGE: &str = "the server is shutting down";
/// gRPC's status code 14: the client may try again.
pub(super) const UNAVAILABLE: u8 = 14;

/// The last frame of a stream of this kind, in the form of its dialect; `None` when it has none, or the client would not
/// receive it.
///
/// The client is told when to come back; `retry` should be another time for each.
pub(crate) fn farewell(
    kind: StreamKind,
    version: Version,
    exchange: &Exchange,
    retry: Duration,
) -> Option<Frame<Bytes>> {
    let trailers = || grpc::trailers(UNAVAILABLE, MESSAGE);
    match kind {
        StreamKind::Grpc if !grpc::trailers_arrive(version) => return None,
        StreamKind::Grpc => return Some(Frame::trailers(trailers())),
        StreamKind::GrpcWeb => return Some(Frame::data(grpc::web_trailers(&trailers()))),
        _ => {}
    }
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let report = ErrorReport::new(FaultKind::Drain, unavailable, MESSAGE)
        .with_request_id(exchange.request_id())
        .with_retry_after(Some(retry));
    let text = exchange.dialect_of(kind).farewell(&report);
    (!text.is_empty()).then(|| Frame::data(Bytes::from(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: StreamKind) -> Vec<u8> {
        let wait = Duration::from_millis(1500);
        let frame = farewell(kind, Version::HTTP_11, &Exchange::new(), wait).unwrap();
        frame.into_data().unwrap().to_vec()
    }

    #[test]
    fn other_formats_have_no_farewell() {
        assert!(
            farewell(
                StreamKind::Other,
                Version::HTTP_2,
                &Exchange::new(),
                Duration::ZERO
            )
            .is_none()
        );
    }

    #[test]
    fn a_json_text_sequence_keeps_its_separator() {
        let text = text(StreamKind::JsonSeq);
        assert!(text.starts_with(b"\x1e{\"drain\":{") && text.ends_with(b"}}\n"));
    }
}
