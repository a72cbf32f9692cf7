//! The response head, with cached properties that several layers read.

use std::ops::{Deref, DerefMut};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response::Parts};
use http_body::SizeHint;

use crate::{Delivery, Dialect, StreamKind, declared_length, grpc, is_encoded};

/// The head of a response on its way out through the stages.
///
/// Dereferences to [`Parts`]. The kind of the stream and the declared length, which nearly every stage needs, are
/// computed once. A change through `DerefMut` invalidates them.
#[derive(Debug)]
pub struct ResponseHead {
    parts: Parts,
    facts: Option<Facts>,
}

#[derive(Clone, Copy, Debug)]
struct Facts {
    content: StreamKind,
    is_grpc: bool,
    encoded: bool,
    declared: Option<u64>,
    /// The dialect that a header announces.
    dialect: Option<&'static Dialect>,
}

impl Facts {
    /// One pass over the few names of a head costs less than a look-up for each field.
    fn of(headers: &HeaderMap) -> Self {
        let (mut typed, mut encoded, mut sized) = (false, false, false);
        let mut dialect = None;
        for name in headers.keys() {
            typed |= name == header::CONTENT_TYPE;
            encoded |= name == header::CONTENT_ENCODING;
            sized |= name == header::CONTENT_LENGTH;
            dialect = dialect.or_else(|| Dialect::of_header(name));
        }
        let content_type = typed.then(|| headers.get(header::CONTENT_TYPE)).flatten();
        Self {
            content: content_type.map_or(StreamKind::Other, StreamKind::of_content_type),
            is_grpc: content_type.is_some_and(|value| grpc::kind(value.as_bytes()).is_some()),
            encoded: encoded && is_encoded(headers),
            declared: sized.then(|| declared_length(headers)).flatten(),
            dialect,
        }
    }
}

impl ResponseHead {
    #[inline]
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts, facts: None }
    }

    #[inline]
    pub(super) fn into_parts(self) -> Parts {
        self.parts
    }

    #[inline]
    fn facts(&mut self) -> Facts {
        let headers = &self.parts.headers;
        *self.facts.get_or_insert_with(|| Facts::of(headers))
    }

    /// The kind of the stream: [`StreamKind::of`] its headers.
    #[inline]
    pub fn stream_kind(&mut self) -> StreamKind {
        match self.facts() {
            Facts { encoded: true, .. } => StreamKind::Other,
            Facts { content, .. } => content,
        }
    }

    /// The kind of the stream by content type alone, whatever its content coding. For a layer that changes only the
    /// head.
    #[inline]
    pub fn content_kind(&mut self) -> StreamKind {
        self.facts().content
    }

    /// Returns whether the content type is that of gRPC or gRPC-Web.
    #[inline]
    pub(super) fn is_grpc(&mut self) -> bool {
        self.facts().is_grpc
    }

    /// The dialect that a header announces: [`Dialect::of_headers`].
    #[inline]
    pub(super) fn announced_dialect(&mut self) -> Option<Dialect> {
        self.facts().dialect.copied()
    }

    /// Returns whether a layer may write bytes of its own into the body: [`allows_insertion`](crate::allows_insertion).
    #[inline]
    pub fn allows_insertion(&mut self) -> bool {
        self.parts.status != StatusCode::PARTIAL_CONTENT && !self.facts().encoded
    }

    /// How much of a body of this size is sent in response to such a request.
    #[inline]
    pub fn delivery(&mut self, method: &Method, size: &SizeHint) -> Delivery {
        let declared = self.facts().declared;
        Delivery::of(method, self.parts.status, declared, || size.exact())
    }

    /// Inserts a field that does not concern the body, without invalidating the cached properties.
    #[inline(always)] // The name is nearly always a constant, with which the comparisons are decided by the compiler.
    pub fn insert_field(&mut self, name: HeaderName, value: HeaderValue) {
        let of_body = name == header::CONTENT_TYPE
            || name == header::CONTENT_ENCODING
            || name == header::CONTENT_LENGTH
            || Dialect::of_header(&name).is_some();
        if of_body {
            self.facts = None;
        }
        self.parts.headers.insert(name, value);
    }
}

impl Deref for ResponseHead {
    type Target = Parts;

    #[inline]
    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl DerefMut for ResponseHead {
    #[inline]
    fn deref_mut(&mut self) -> &mut Parts {
        self.facts = None;
        &mut self.parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen() {
        let (parts, ()) = http::Response::new(()).into_parts();
        let mut head = ResponseHead::new(parts);
        let set = |head: &mut ResponseHead, name: HeaderName, value: &'static str| {
            head.insert_field(name, HeaderValue::from_static(value));
        };
        assert_eq!(head.stream_kind(), StreamKind::Other);
        set(&mut head, header::CONTENT_TYPE, "text/event-stream");
        assert_eq!(head.stream_kind(), StreamKind::Sse);
        set(&mut head, header::CONTENT_LENGTH, "5");
        let size = SizeHint::default();
        let declared =
            |head: &mut ResponseHead| head.delivery(&Method::GET, &size).declared_length();
        assert_eq!(declared(&mut head), Some(5));
        head.headers.remove(header::CONTENT_LENGTH);
        assert_eq!(declared(&mut head), None);
        assert!(head.allows_insertion());
        set(&mut head, header::CONTENT_ENCODING, "br");
        assert_eq!(head.stream_kind(), StreamKind::Other);
        assert_eq!(head.content_kind(), StreamKind::Sse);
        assert!(!head.allows_insertion());
    }
}
