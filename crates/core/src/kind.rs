//! What a response streams.

use http::{HeaderMap, HeaderValue, header};

use crate::{grpc, is_encoded};

/// What a response streams, as far as a layer must know to end it well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Server-sent events: `text/event-stream` (WHATWG HTML section 9.2).
    Sse,
    /// JSON values, one a line: `application/x-ndjson`, `application/jsonl` and their relatives.
    JsonLines,
    /// JSON text sequences: `application/json-seq` (RFC 7464). Lines too, each begun by a record separator (0x1E).
    JsonSeq,
    /// gRPC: `application/grpc` and `application/grpc+*`.
    Grpc,
    /// gRPC-Web in its binary form, `application/grpc-web` and `application/grpc-web+*`.
    GrpcWeb,
    /// Anything else: bytes without records that a layer could see, encoded bodies included.
    Other,
}

/// How records follow each other in the bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordFormat {
    /// An event ends at a blank line; lines end in LF, CR or CRLF.
    Sse,
    /// A record ends at LF.
    Lines,
}

impl StreamKind {
    /// Reads the kind from response headers.
    ///
    /// A body under a `Content-Encoding` is [`StreamKind::Other`]: its records cannot be seen, and nothing can be
    /// written after it. `application/grpc-web-text` is `Other` too: its base64 groups hide the frames.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(header::CONTENT_TYPE) {
            Some(value) if !is_encoded(headers) => Self::of_content_type(value),
            _ => Self::Other,
        }
    }

    /// The kind of a body that is under no content coding.
    pub(crate) fn of_content_type(value: &HeaderValue) -> Self {
        // as nearly every server writes it, without the parsing below
        if value == "text/event-stream" {
            return Self::Sse;
        }
        if let Some(kind) = grpc::kind(value.as_bytes()) {
            return kind;
        }
        let Ok(value) = value.to_str() else {
            return Self::Other;
        };
        let essence = value
            .split_once(';')
            .map_or(value, |(essence, _)| essence)
            .trim();
        let is = |names: &[&str]| names.iter().any(|name| essence.eq_ignore_ascii_case(name));
        if is(&["text/event-stream"]) {
            Self::Sse
        } else if is(&[
            "application/x-ndjson",
            "application/ndjson",
            "application/jsonl",
            "application/x-jsonl",
            "application/jsonlines",
            "application/x-jsonlines",
            "application/json-lines",
        ]) {
            Self::JsonLines
        } else if is(&["application/json-seq"]) {
            Self::JsonSeq
        } else {
            Self::Other
        }
    }

    /// How its records can be told apart by bytes alone, if they can.
    #[must_use]
    pub fn records(self) -> Option<RecordFormat> {
        match self {
            Self::Sse => Some(RecordFormat::Sse),
            Self::JsonLines | Self::JsonSeq => Some(RecordFormat::Lines),
            Self::Grpc | Self::GrpcWeb | Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (content_type, kind) in [
            ("text/event-stream", StreamKind::Sse),
            ("Text/Event-Stream; charset=utf-8", StreamKind::Sse),
            ("application/x-ndjson", StreamKind::JsonLines),
            ("application/jsonl ; charset=utf-8", StreamKind::JsonLines),
            ("application/json-seq", StreamKind::JsonSeq),
            ("application/grpc", StreamKind::Grpc),
            ("application/grpc+proto", StreamKind::Grpc),
            ("application/grpc-web", StreamKind::GrpcWeb),
            ("application/grpc-web+proto", StreamKind::GrpcWeb),
            ("APPLICATION/gRPC-Web; charset=utf-8", StreamKind::GrpcWeb),
            ("application/grpc;x=1", StreamKind::Grpc),
            ("application/grpc-web-text", StreamKind::Other),
            ("application/grpc-web-text+proto", StreamKind::Other),
            ("application/grpc-weber", StreamKind::Other),
            ("application/grpcx", StreamKind::Other),
            ("application/json", StreamKind::Other),
            ("text/event-streams", StreamKind::Other),
            ("", StreamKind::Other),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            assert_eq!(StreamKind::of(&headers), kind, "{content_type}");
            headers.insert(header::CONTENT_ENCODING, "identity".parse().unwrap());
            assert_eq!(StreamKind::of(&headers), kind, "{content_type}");
            headers.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
            assert_eq!(
                StreamKind::of(&headers),
                StreamKind::Other,
                "{content_type}"
            );
        }
        assert_eq!(StreamKind::of(&HeaderMap::new()), StreamKind::Other);
    }
}
