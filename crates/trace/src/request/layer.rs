use std::sync::Arc;

use http::Request;
use tower_layer::Layer;
use tower_stream_core::{
    Claim, Exchange,
    wrapper::{Begin, Hook, Wrapped},
};
use tracing::Span;

use super::{ClientAddress, span, stage::RequestSpan};
use crate::access::{AccessLog, Line};

/// Opens a tracing span for the request that lives **to the end of its body**.
///
/// The span is entered for every poll of the handler and of the body, and when either is dropped, so that every log
/// line of a stream belongs to its request.
///
/// Its fields follow OpenTelemetry's conventions for HTTP servers (stable; semantic conventions 1.41):
///
/// | when | fields |
/// |---|---|
/// | at the call | `otel.name` (`{method} {route}`), `otel.kind` = `server`, `http.request.method`, `http.route`, `url.path`, `url.scheme`, `url.query` if enabled, `network.protocol.version`, `network.peer.address`, `network.peer.port`, `server.address`, `server.port`, `client.address`, `user_agent.original`, `request_id` |
/// | at the head | `http.response.status_code` |
/// | at the end | `http.response.body.size`, `stream.outcome`, `stream.chunks`, `stream.ttfc_ms`, `error.type`, `otel.status_code`; for gRPC also `rpc.grpc.status_code` (the number) and `rpc.response.status_code` (its name) |
///
/// [`tower_stream_core`] decides the end: `stream.outcome` is `complete`, `aborted`, `error` or `panic`. The span
/// status is `Error` for a 5xx, a failure of the body and a panic. If the client disconnects, the outcome is `aborted`
/// with an `error.type`, which is not an error of the server. A gRPC status other than 0 has the outcome `error`, and
/// its name is the `error.type`. The span status is then `Error` only for UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED,
/// INTERNAL, UNAVAILABLE and DATA_LOSS, as in the gRPC conventions for server spans.
///
/// `http.route` and `client.address` require the feature `axum`, a layer inside of axum's routing (`Router::layer`),
/// and a server that provides the peer address. Methods outside of RFC 9110 and RFC 5789 are `_OTHER`. Values from the
/// client are truncated to 1024 characters, see [`RequestSpanLayer::attribute_value_limit`].
///
/// The span has the target `tower_stream_trace` and the level INFO. One event is also logged at the end of each
/// response, see [`AccessLog`]. If no subscriber wants either, a request costs two checks and a frame nothing. If the
/// layer is applied twice, only the outer one is active.
///
/// ```
/// use tower_stream_trace::{RemoteParent, RequestSpanLayer};
///
/// let layer = RequestSpanLayer::new()
///     .remote_parent(RemoteParent::Link)
///     .scheme("https");
/// # let _ = layer;
/// ```
#[derive(Clone, Debug)]
pub struct RequestSpanLayer {
    config: Option<Arc<Config>>,
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) remote: RemoteParent,
    pub(super) scheme: &'static str,
    pub(super) query: bool,
    pub(super) client: ClientAddress,
    pub(super) access: AccessLog,
    /// In characters.
    pub(super) value_limit: usize,
}

/// How the trace context of a request is used (W3C `traceparent`, or what the global propagator reads).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemoteParent {
    /// The trace context becomes the parent of the request span, which continues the client's trace. With a
    /// parent-based sampler, the client decides whether the request is sampled. The baggage of the request (W3C
    /// `baggage`) is used too, with or without a trace context: `tracing::Span::current().context()` contains it.
    #[default]
    Trust,
    /// The request span starts a new trace and links to the client's: for a server at the edge.
    Link,
    /// The trace context is ignored.
    Ignore,
}

impl Default for RequestSpanLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestSpanLayer {
    /// Creates the layer with its defaults: it trusts the remote parent, records no query, and uses the scheme `http`
    /// if the request has none.
    #[must_use]
    pub fn new() -> Self {
        Self {
            config: Some(Arc::new(Config {
                remote: RemoteParent::default(),
                scheme: "http",
                query: false,
                client: ClientAddress::default(),
                access: AccessLog::new(),
                value_limit: value_limit(|name| std::env::var(name).ok()),
            })),
        }
    }

    /// A disabled layer of the same type.
    #[must_use]
    pub fn off() -> Self {
        Self { config: None }
    }

    /// Sets how the trace context of a request is used. Default: [`RemoteParent::Trust`].
    ///
    /// The context is read with the global propagator (`opentelemetry::global::set_text_map_propagator`), which reads
    /// nothing until one is set. If the current span already belongs to the same trace, it stays the parent.
    #[must_use]
    pub fn remote_parent(self, remote: RemoteParent) -> Self {
        self.with(|config| config.remote = remote)
    }

    /// Sets `url.scheme` for requests whose URI has no scheme, as in HTTP/1. Default: `http`.
    #[must_use]
    pub fn scheme(self, scheme: &'static str) -> Self {
        self.with(|config| config.scheme = scheme)
    }

    /// Sets whether `url.query` is recorded. Default: false, because queries may contain secrets.
    ///
    /// The values of known secret parameters are recorded as `REDACTED`: signatures and keys of signed URLs (AWS,
    /// Google, Azure), tokens, keys, passwords, and OAuth's `code`.
    #[must_use]
    pub fn record_query(self, record: bool) -> Self {
        self.with(|config| config.query = record)
    }

    /// Sets the source of `client.address`. Default: [`ClientAddress::Peer`], the peer of the connection, which is also
    /// `network.peer.address`.
    #[must_use]
    pub fn client_address(self, from: ClientAddress) -> Self {
        self.with(|config| config.client = from)
    }

    /// Sets what is logged at the end of each response. Default: one event at INFO, see [`AccessLog`].
    #[must_use]
    pub fn access_log(self, log: AccessLog) -> Self {
        self.with(|config| config.access = log)
    }

    /// Sets the maximum number of characters of an attribute value from the client (path, query, method, host and user
    /// agent). Longer values are truncated.
    ///
    /// Default: `OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT`, otherwise `OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`
    /// (OpenTelemetry's environment variables), read when the layer is created; otherwise 1024. Without a limit,
    /// clients could decide how much memory the spans that wait for an exporter take.
    #[must_use]
    pub fn attribute_value_limit(self, characters: usize) -> Self {
        self.with(|config| config.value_limit = characters)
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        if let Some(config) = &mut self.config {
            change(Arc::make_mut(config));
        }
        self
    }
}

/// The limit from the environment, or the default. A value that is not a number is ignored.
fn value_limit(variable: impl Fn(&str) -> Option<String>) -> usize {
    const DEFAULT: usize = 1024;
    [
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    ]
    .into_iter()
    .find_map(|name| variable(name)?.trim().parse().ok())
    .unwrap_or(DEFAULT)
}

impl<S> Layer<S> for RequestSpanLayer {
    type Service = Wrapped<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

impl Hook for RequestSpanLayer {
    type Stage = Box<RequestSpan>;

    #[inline]
    fn is_off(&self) -> bool {
        self.config.is_none()
    }

    #[inline]
    fn on_request<B>(
        &self,
        request: &mut Request<B>,
        exchange: &Exchange,
    ) -> Begin<Box<RequestSpan>> {
        match &self.config {
            Some(config) if exchange.claim(Claim::RequestSpan) => {
                let access = Line::begin(config.access, config.value_limit, request);
                let span = match (span::open(config, request), &access) {
                    (Some(span), _) => span,
                    (None, Some(_)) => Span::none(),
                    (None, None) => return Begin::Pass,
                };
                Begin::Follow(Box::new(RequestSpan::new(span, exchange.clone(), access)))
            }
            _ => Begin::Pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::value_limit;

    #[test]
    fn the_limit_of_spans_goes_before_that_of_all_attributes() {
        let limit = |set: &[(&str, &str)]| {
            value_limit(|name| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let all = ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "64");
        assert_eq!(limit(&[]), 1024);
        assert_eq!(limit(&[all]), 64);
        assert_eq!(
            limit(&[("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "32"), all]),
            32
        );
        assert_eq!(
            limit(&[("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "many"), all]),
            64
        );
    }
}
