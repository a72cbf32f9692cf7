//! The layer's effect on one response.

use std::{fmt, task::Poll};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use tower_stream_core::{
    AddedNoTransform, Exchange, StreamKind, declared_length,
    wrapper::{AfterHead, Begin, Hints, Hook, ResponseHead, Source, Stage, StageContext},
};

use crate::{
    StreamHeadersLayer,
    cache_control::{self, Guarded},
    hop_by_hop,
    layer::OnlyIf,
};

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

const NO: HeaderValue = HeaderValue::from_static("no");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// The state of [`StreamHeadersLayer`] for one request, until the head arrives.
pub struct StreamHeadersStage {
    only_if: Option<OnlyIf>,
    version: Version,
    is_head: bool,
    /// Whether the client accepts a content coding. If not, no layer outside compresses, so the mark for `no-transform`
    /// is not needed.
    accepts_coding: bool,
}

impl Hook for StreamHeadersLayer {
    type Stage = StreamHeadersStage;

    #[inline]
    fn is_off(&self) -> bool {
        !self.is_on()
    }

    #[inline]
    fn on_request<B>(&self, request: &mut Request<B>, _: &Exchange) -> Begin<StreamHeadersStage> {
        if !self.is_on() {
            return Begin::Pass;
        }
        Begin::Follow(StreamHeadersStage {
            only_if: self.wanted(),
            version: request.version(),
            is_head: request.method() == Method::HEAD,
            // The few names of a head are compared faster than one is hashed.
            accepts_coding: request
                .headers()
                .keys()
                .any(|name| name == header::ACCEPT_ENCODING),
        })
    }
}

impl Stage for StreamHeadersStage {
    #[inline]
    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        _: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        let wanted = match &self.only_if {
            Some(wanted) => wanted(head),
            None => matches!(
                head.content_kind(),
                StreamKind::Sse | StreamKind::JsonLines | StreamKind::JsonSeq | StreamKind::GrpcWeb
            ),
        };
        if wanted && head.status != StatusCode::SWITCHING_PROTOCOLS {
            self.guard(head, up);
        }
        Poll::Ready(AfterHead::Leave)
    }
}

impl StreamHeadersStage {
    fn guard(&self, head: &mut ResponseHead, up: &impl Hints) {
        let mut seen = Seen::of(&head.headers);
        if seen.hop_by_hop {
            let status = head.status;
            hop_by_hop::remove(&mut head.headers, status, self.version);
            seen = Seen::of(&head.headers);
        }
        if seen.length && !self.is_head && head.content_kind() == StreamKind::Sse {
            drop_guessed_length(head, up);
        }
        let cache_control = match seen.cache_control {
            true => cache_control::guarded(&head.headers),
            false => Guarded::NEW,
        };
        if let Some(value) = cache_control.value {
            head.insert_field(header::CACHE_CONTROL, value);
        }
        if cache_control.adds_no_transform && self.accepts_coding {
            head.extensions.insert(AddedNoTransform);
        }
        if !seen.buffering {
            head.insert_field(ACCEL_BUFFERING, NO);
        }
        head.insert_field(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    }
}

/// Which of the fields that the layer treats are in a head. One pass over its few names takes fewer instructions than
/// a look-up for each.
#[derive(Default)]
struct Seen {
    hop_by_hop: bool,
    length: bool,
    cache_control: bool,
    buffering: bool,
}

impl Seen {
    #[inline]
    fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "cache-control" => seen.cache_control = true,
                "content-length" => seen.length = true,
                "x-accel-buffering" => seen.buffering = true,
                name => seen.hop_by_hop |= hop_by_hop::is_of_connection(name),
            }
        }
        seen
    }
}

/// Removes a `Content-Length` that the size hint of the body does not confirm. The handler has copied it from
/// elsewhere, and bytes that are added to the stream would exceed it.
#[cold]
fn drop_guessed_length(head: &mut ResponseHead, up: &impl Hints) {
    let exact = up.size_hint().exact();
    if exact.is_none() || exact != declared_length(&head.headers) {
        head.headers.remove(header::CONTENT_LENGTH);
    }
}

impl fmt::Debug for StreamHeadersStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHeadersStage")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
