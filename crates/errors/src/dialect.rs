//! [`DialectLayer`]: which dialect the responses of a route speak, and error responses in its form.

use std::{
    fmt,
    task::{Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body::SizeHint;
use tower_layer::Layer;
use tower_stream_core::{
    Dialect, ErrorReport, Exchange, FaultKind, bytes_changed,
    wrapper::{
        AfterHead, Begin, Hints, Hook, Piece, Polled, ResponseHead, Source, Stage, StageContext,
        Wrapped,
    },
};

/// Names the [`Dialect`] of the responses inside, for every layer of this workspace that sees them.
///
/// * A stream that ends without the last record of the dialect has failed: `incomplete`.
/// * The error writer, the farewell of a drain and heartbeats take their form from it, and write nothing behind the last
///   record.
/// * An error response is given the form of the dialect: a 401, a 404, a rejected body, a drain's 503. Its status and its
///   fields stay, and its text becomes the message. What already is `application/json`, HTML or anything else that is
///   neither plain text nor a problem document is left as it is.
///
/// Put it outside of whatever answers in place of the handler, a drain included, or around the routes of the dialect
/// (`route_layer`). Of two layers the inner one decides, and the handler overrules both by a `Dialect` in the response
/// extensions.
///
/// ```
/// use axum::{Router, routing::post};
/// use tower_stream_core::Dialect;
/// use tower_stream_errors::{DialectLayer, ErrorWriterLayer};
///
/// # async fn chat() {}
/// let app: Router = Router::new()
///     .route("/v1/chat/completions", post(chat))
///     .layer(ErrorWriterLayer::new())
///     .layer(DialectLayer::new(Dialect::OPENAI_CHAT));
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until a service is given to it"]
pub struct DialectLayer {
    dialect: Option<Dialect>,
    under: &'static str,
}

impl DialectLayer {
    /// Names this dialect.
    pub const fn new(dialect: Dialect) -> Self {
        Self {
            dialect: Some(dialect),
            under: "",
        }
    }

    /// Only for requests whose path begins with this prefix. Default: for all.
    pub const fn under(mut self, prefix: &'static str) -> Self {
        self.under = prefix;
        self
    }

    /// A layer of the same type that does nothing.
    pub const fn off() -> Self {
        Self {
            dialect: None,
            under: "",
        }
    }
}

impl<S> Layer<S> for DialectLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, *self)
    }
}

impl Hook for DialectLayer {
    type Stage = DialectStage;

    #[inline]
    fn is_off(&self) -> bool {
        self.dialect.is_none()
    }

    fn on_request<B>(&self, request: &mut Request<B>, exchange: &Exchange) -> Begin<DialectStage> {
        let Some(dialect) = self.dialect else {
            return Begin::Pass;
        };
        if !request.uri().path().starts_with(self.under) {
            return Begin::Pass;
        }
        exchange.set_dialect(dialect);
        Begin::Follow(DialectStage {
            is_head: request.method() == Method::HEAD,
            replaced: None,
        })
    }
}

/// What [`DialectLayer`] keeps of one request.
pub struct DialectStage {
    is_head: bool,
    /// Boxed: most responses are no errors.
    replaced: Option<Box<Replaced>>,
}

/// An error response whose content is replaced.
struct Replaced {
    content: Content,
    /// What was read of it.
    text: Vec<u8>,
    /// Still to be given out.
    document: Option<Bytes>,
}

/// The longest text of an error response that is read.
const LONGEST: u64 = 16 * 1024;

/// What an error response says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Nothing,
    Text,
    Problem,
}

impl DialectStage {
    fn document(&self) -> Option<&Bytes> {
        self.replaced.as_ref()?.document.as_ref()
    }

    /// What is to be replaced, if anything.
    fn content(&self, head: &mut ResponseHead, size: &SizeHint) -> Option<Content> {
        let is_error = head.status.is_client_error() || head.status.is_server_error();
        if !is_error || self.is_head || !head.allows_insertion() {
            return None;
        }
        let exact = size.exact().filter(|size| *size <= LONGEST)?;
        let Some(value) = head.headers.get(header::CONTENT_TYPE) else {
            return (exact == 0).then_some(Content::Nothing);
        };
        let essence = value.to_str().ok()?.split(';').next()?.trim();
        match essence.to_ascii_lowercase().as_str() {
            "text/plain" => Some(Content::Text),
            "application/problem+json" => Some(Content::Problem),
            _ => None,
        }
    }
}

impl Replaced {
    /// A sentence for the client: what the response said, or what its status does.
    fn message(&self, status: StatusCode) -> String {
        let said = match self.content {
            Content::Nothing => None,
            Content::Text => str::from_utf8(&self.text).ok().map(str::to_owned),
            Content::Problem => self.problem(),
        };
        let said = said.filter(|text| !text.trim().is_empty());
        said.unwrap_or_else(|| status.canonical_reason().unwrap_or("error").to_owned())
    }

    fn problem(&self) -> Option<String> {
        let problem: serde_json::Value = serde_json::from_slice(&self.text).ok()?;
        let said = |name: &str| problem[name].as_str().map(str::to_owned);
        said("detail").or_else(|| said("title"))
    }
}

impl Stage for DialectStage {
    const RARE: bool = true;

    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        let Some(dialect) = cx.exchange.dialect().filter(Dialect::has_document) else {
            return Poll::Ready(AfterHead::Leave);
        };
        if self.replaced.is_none() {
            let Some(content) = self.content(head, &up.size_hint()) else {
                return Poll::Ready(AfterHead::Leave);
            };
            self.replaced = Some(Box::new(Replaced {
                content,
                text: Vec::new(),
                document: None,
            }));
        }
        let Some(replaced) = &mut self.replaced else {
            return Poll::Ready(AfterHead::Leave);
        };
        // If the body fails, the message consists of what was read before.
        while let Some(Ok(piece)) = ready!(up.poll(cx)) {
            replaced
                .text
                .extend_from_slice(piece.data().map_or(&[], |data| data));
            if piece.is_last() {
                break;
            }
        }
        let status = head.status;
        let message = replaced.message(status);
        let cause = cx.exchange.cause();
        let kind = cause.map_or(FaultKind::Other, |cause| cause.kind());
        let report = ErrorReport::new(kind, status, &message)
            .with_request_id(cx.exchange.request_id())
            .with_retry_after(cause.and_then(|cause| cause.retry_after()));
        if let Some(document) = dialect.document(&report) {
            bytes_changed(&mut head.headers);
            let json = HeaderValue::from_static("application/json");
            head.insert_field(header::CONTENT_TYPE, json);
            replaced.document = Some(document.to_string().into());
        }
        Poll::Ready(AfterHead::Stay)
    }

    #[inline(always)]
    fn on_poll(&mut self, _: &mut impl Source, _: &mut StageContext<'_, '_>) -> Option<Polled> {
        let document = self.replaced.as_mut()?.document.take()?;
        Some(Poll::Ready(Some(Ok(Piece::Data {
            data: document,
            last: true,
        }))))
    }

    #[inline]
    fn has_more(&self) -> bool {
        self.document().is_some()
    }

    #[inline]
    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        match self.document() {
            Some(document) => SizeHint::with_exact(document.len() as u64),
            None => up.size_hint(),
        }
    }
}

impl fmt::Debug for DialectStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialectStage")
            .field("replaces", &self.replaced.is_some())
            .finish_non_exhaustive()
    }
}
