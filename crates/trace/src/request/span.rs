//! The request span and what is known of it at the call.

use std::{borrow::Cow, cell::LazyCell, sync::Arc};

use http::{HeaderMap, Method, Request, Version, header};
use opentelemetry::{Context, global, propagation::Extractor, trace::TraceContextExt};
use tower_stream_core::{OTHER_METHOD, RequestId, Scope, matched_route, method_name, peer_address};
use tracing::{Span, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::layer::{Config, RemoteParent};
use crate::parent;

/// Opens the span; `None` when no subscriber wants it.
pub(super) fn open<B>(config: &Config, request: &Request<B>) -> Option<Span> {
    let span = new(config, request);
    if span.is_disabled() {
        return None;
    }
    match config.remote {
        RemoteParent::Trust => {
            if let Some(remote) = remote(request.headers()).filter(is_news) {
                // a subscriber without OpenTelemetry has no parent to set
                let _ = span.set_parent(remote);
            }
        }
        RemoteParent::Link => {
            if let Some(remote) = remote(request.headers()) {
                span.add_link(remote.span().span_context().clone());
            }
        }
        RemoteParent::Ignore => {}
    }
    Some(span)
}

fn new<B>(config: &Config, request: &Request<B>) -> Span {
    // The values are only computed when the span is wanted. What is recorded later stands first, for it is looked up
    // by its name.
    let authority = LazyCell::new(|| authority(request));
    let cut = |value| cut(value, config.value_limit);
    let route = LazyCell::new(|| matched_route(request.extensions()));
    let method = LazyCell::new(|| method_name(request.method()));
    info_span!(
        target: "tower_stream_trace",
        "request",
        http.response.status_code = field::Empty,
        stream.outcome = field::Empty,
        stream.chunks = field::Empty,
        stream.ttfc_ms = field::Empty,
        http.response.body.size = field::Empty,
        error.type = field::Empty,
        rpc.grpc.status_code = field::Empty,
        rpc.response.status_code = field::Empty,
        otel.status_code = field::Empty,
        otel.status_description = field::Empty,
        otel.name = cut(&name(request.method(), *route)),
        otel.kind = "server",
        http.request.method = method.unwrap_or(OTHER_METHOD),
        // a method outside of the convention is told here only: whoever sends it must not choose how many values there are
        http.request.method_original = method.is_none().then(|| cut(request.method().as_str())),
        http.route = route.map(cut),
        url.path = cut(request.uri().path()),
        url.scheme = request.uri().scheme_str().unwrap_or(config.scheme),
        url.query = request.uri().query().filter(|_| config.query).map(cut),
        network.protocol.version = version(request.version()),
        server.address = authority.map(|(host, _)| cut(host)),
        server.port = authority.and_then(|(_, port)| port).map(i64::from),
        client.address = peer_address(request.extensions()).map(|peer| field::display(peer.ip())),
        user_agent.original = text(request.headers(), header::USER_AGENT).map(cut),
        request_id = RequestId::of(request.extensions()).map(RequestId::as_str),
    )
}

/// The first `limit` characters. A client chooses how long its header fields and its target are, and a span holds copies
/// of them until it is exported.
fn cut(value: &str, limit: usize) -> &str {
    if value.len() <= limit {
        return value;
    }
    let end = value.char_indices().nth(limit);
    end.map_or(value, |(end, _)| &value[..end])
}

/// `{method} {route}`, and the method alone where no route is known.
fn name(method: &Method, route: Option<&str>) -> Cow<'static, str> {
    let method = method_name(method).unwrap_or("HTTP");
    match route {
        Some(route) => [method, " ", route].concat().into(),
        None => method.into(),
    }
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_09 => Some("0.9"),
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Host and port that the request was sent to: of the URI (HTTP/2, proxies), of `Host` otherwise (RFC 9110, 7.2).
fn authority<B>(request: &Request<B>) -> Option<(&str, Option<u16>)> {
    let (host, port) = match request.uri().authority() {
        Some(authority) => (authority.host(), authority.port_u16()),
        None => {
            let value = text(request.headers(), header::HOST)?;
            match value.rsplit_once(':') {
                // a colon in brackets is of an IPv6 address
                Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
                _ => (value, None),
            }
        }
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    Some((bare.unwrap_or(host), port))
}

/// The trace context that the request brings, if the global propagator finds a valid one.
fn remote(headers: &HeaderMap) -> Option<Context> {
    let headers = Headers(headers);
    let found = global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &headers)
    });
    parent::has_span(&found).then_some(found)
}

/// A current span of the same trace is nearer than the client's.
fn is_news(remote: &Context) -> bool {
    let trace = |context: &Context| context.span().span_context().trace_id();
    trace(&parent::current()) != trace(remote)
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(header::HeaderName::as_str).collect()
    }
}

/// The span as something to run in.
#[derive(Debug)]
pub struct InSpan(pub(super) Arc<Span>);

impl Scope for InSpan {
    type Entered<'a> = tracing::span::Entered<'a>;

    #[inline]
    fn enter(&mut self) -> Self::Entered<'_> {
        self.0.enter()
    }
}
