//! The format of a response stream.

use http::{HeaderMap, HeaderValue, header};

use crate::{grpc, is_encoded};

/// The format of a response stream, as far as a layer must know it to write a last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Server-sent events: `text/event-stream` (WHATWG HTML section 9.2).
    Sse,
    /// JSON values, one per line: `application/x-ndjson`, `application/jsonl` and related types.
    JsonLines,
    /// JSON text sequences: `application/json-seq` (RFC 7464). Also lines, each of which starts with a record separator
    /// (0x1E).
    JsonSeq,
    /// gRPC: `application/grpc` and `application/grpc+*`.
    Grpc,
    /// gRPC-Web in its binary form, `application/grpc-web` and `application/grpc-web+*`.
    GrpcWeb,
    /// Anything else: bodies without visible records, including those with a content coding.
    Other,
}

/// How the records of a stream are delimited.
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
    /// A body with a `Content-Encoding` is [`StreamKind::Other`]: its records are hidden, and nothing can be written
    /// after it. `application/grpc-web-text` is `Other` too, because its base64 encoding hides the frames.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(header::CONTENT_TYPE) {
            Some(value) if !is_encoded(headers) => Self::of_content_type(value),
            _ => Self::Other,
        }
    }

    /// The kind of a body without a content coding.
    pub(crate) fn of_content_type(value: &HeaderValue) -> Self {
        // Fast path: nearly every server writes exactly this.
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

    /// How the records are delimited in the bytes, if they can be found in the bytes alone.
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
