//! Which responses are compressed.

use http::{HeaderMap, Request, StatusCode, header};
use tower_layer::Layer;
use tower_stream_core::{
    Exchange, StreamKind, forbids_transform, list_members,
    wrapper::{AfterHead, Begin, Hook, ResponseHead, Source, Stage, StageContext, Wrapped},
};

/// A shorter document does not become shorter on the wire.
const LEAST: u64 = 1024;

/// In the extensions of a response that must not be compressed, because an attacker could guess a secret in it from its
/// length (BREACH): a response that contains both a secret and text of the request.
///
/// A handler inserts it, or it is a layer around the routes of such responses:
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_stream_compress::{CompressLayer, Uncompressed};
///
/// let app: Router = Router::new()
///     .route("/account", get(|| async { "token" }).layer(Uncompressed))
///     .layer(CompressLayer::new());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncompressed;

impl<S> Layer<S> for Uncompressed {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, *self)
    }
}

impl Hook for Uncompressed {
    type Stage = Self;

    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<Self> {
        Begin::Follow(*self)
    }
}

impl Stage for Uncompressed {
    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        _: &mut impl Source,
        _: &mut StageContext<'_, '_>,
    ) -> std::task::Poll<AfterHead> {
        head.extensions.insert(*self);
        std::task::Poll::Ready(AfterHead::Leave)
    }
}

/// Returns whether the coding of this response is negotiated. `declared` is its declared length.
pub(crate) fn is_eligible(head: &mut ResponseHead, declared: Option<u64>) -> bool {
    let kind = head.content_kind();
    let compresses = match kind {
        StreamKind::Sse | StreamKind::JsonLines | StreamKind::JsonSeq => true,
        // They have a compression of their own, of each message.
        StreamKind::Grpc | StreamKind::GrpcWeb => false,
        StreamKind::Other => is_text(&head.headers),
    };
    compresses
        && declared.is_none_or(|length| length >= LEAST)
        && head.allows_insertion()
        && head.status != StatusCode::SWITCHING_PROTOCOLS
        && !head.headers.contains_key(header::CONTENT_RANGE)
        && !forbids_transform(&head.headers, &head.extensions)
        && head.extensions.get::<Uncompressed>().is_none()
}

/// Returns whether the content type is text of some kind.
fn is_text(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let Some(content_type) = content_type.and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let Some((kind, subtype)) = essence.split_once('/') else {
        return false;
    };
    let is = |known: &str| subtype.eq_ignore_ascii_case(known);
    let ends = |suffix: &str| {
        let start = subtype.len().checked_sub(suffix.len());
        start.is_some_and(|start| {
            subtype.as_bytes()[start..].eq_ignore_ascii_case(suffix.as_bytes())
        })
    };
    let structured = ends("+json") || ends("+xml") || ends("+text");
    kind.eq_ignore_ascii_case("text")
        || structured
        || (kind.eq_ignore_ascii_case("application")
            && ["json", "xml", "javascript", "yaml", "toml", "graphql"]
                .into_iter()
                .any(is))
}

/// Adds `Accept-Encoding` to `Vary`, unless it is there already.
pub(crate) fn vary(headers: &mut HeaderMap) {
    let is_named = list_members(headers, &header::VARY)
        .any(|name| name == "*" || name.eq_ignore_ascii_case("accept-encoding"));
    if !is_named {
        let value = http::HeaderValue::from_static("accept-encoding");
        headers.append(header::VARY, value);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn text_of_every_kind() {
        for (content_type, text) in [
            ("text/html; charset=utf-8", true),
            ("TEXT/PLAIN", true),
            ("application/json", true),
            ("application/problem+json", true),
            ("image/svg+xml", true),
            ("Application/JavaScript ; x=1", true),
            ("application/octet-stream", false),
            ("image/png", false),
            ("video/mp4", false),
            ("application/zip", false),
            ("application/grpc-web-text", false),
            ("x/json", false),
            ("json", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static(content_type));
            assert_eq!(is_text(&headers), text, "{content_type}");
        }
        assert!(!is_text(&HeaderMap::new()));
    }

    #[test]
    fn vary_is_merged() {
        for (before, after) in [
            (&[][..], &["accept-encoding"][..]),
            (&["origin"], &["origin", "accept-encoding"]),
            (&["Origin, Accept-Encoding"], &["Origin, Accept-Encoding"]),
            (&["*"], &["*"]),
        ] {
            let mut headers = HeaderMap::new();
            for line in before {
                headers.append("vary", HeaderValue::from_static(line));
            }
            vary(&mut headers);
            assert_eq!(headers.get_all("vary").iter().collect::<Vec<_>>(), after);
        }
    }
}
