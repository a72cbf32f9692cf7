//! Creates the request span with the fields that are known at the call.

use std::{borrow::Cow, cell::LazyCell};

use http::{HeaderMap, Method, Request, header};
use tower_stream_core::{
    OTHER_METHOD, RequestId, matched_route, method_name, peer_address, protocol_version, url_scheme,
};
use tracing::{Span, field, info_span};

use super::{layer::Config, redact::redacted, remote};

/// Creates the span; `None` if no subscriber wants it.
pub(super) fn open<B>(config: &Config, request: &Request<B>) -> Option<Span> {
    let span = new(config, request);
    if span.is_disabled() {
        return None;
    }
    remote::adopt(&span, config.remote, request.headers());
    Some(span)
}

fn new<B>(config: &Config, request: &Request<B>) -> Span {
    // The values are computed only if the span is wanted. Fields that are recorded later come first, because they are
    // looked up by name.
    let authority = LazyCell::new(|| authority(request));
    let cut = |value| cut(value, config.value_limit);
    let route = LazyCell::new(|| matched_route(request.extensions()));
    let method = LazyCell::new(|| method_name(request.method()));
    let query = LazyCell::new(|| {
        let query = request.uri().query().filter(|_| config.query);
        query.map(redacted)
    });
    let peer = LazyCell::new(|| peer_address(request.extensions()));
    info_span!(
        target: "tower_stream_trace",
        "request",
        http.response.status_code = field::Empty,
        stream.outcome = field::Empty,
        stream.chunks = field::Empty,
        stream.heartbeats = field::Empty,
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
        // The original method is recorded only here, because a client could create any number of values with it.
        http.request.method_original = method.is_none().then(|| cut(request.method().as_str())),
        http.route = route.map(cut),
        url.path = cut(request.uri().path()),
        url.scheme = url_scheme(request.uri(), config.scheme),
        url.query = query.as_deref().map(cut),
        network.protocol.version = protocol_version(request.version()),
        network.peer.address = peer.map(|peer| field::display(peer.ip())),
        network.peer.port = peer.map(|peer| i64::from(peer.port())),
        server.address = authority.map(|(host, _)| cut(host)),
        server.port = authority.and_then(|(_, port)| port).map(i64::from),
        client.address = config.client.of(request.headers(), *peer).map(field::display),
        user_agent.original = text(request.headers(), header::USER_AGENT).map(cut),
        request_id = RequestId::of(request.extensions()).map(RequestId::as_str),
    )
}

/// The first `limit` characters. A client chooses the length of its header fields and its target, and a span holds
/// copies of them until it is exported.
pub(crate) fn cut(value: &str, limit: usize) -> &str {
    if value.len() <= limit {
        return value;
    }
    let end = value.char_indices().nth(limit);
    end.map_or(value, |(end, _)| &value[..end])
}

/// `{method} {route}`, or only the method if no route is known.
fn name(method: &Method, route: Option<&str>) -> Cow<'static, str> {
    let method = method_name(method).unwrap_or("HTTP");
    match route {
        Some(route) => [method, " ", route].concat().into(),
        None => method.into(),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The host and port to which the request was sent: those of the URI (HTTP/2, proxies), otherwise those of `Host` (RFC
/// 9110 section 7.2).
fn authority<B>(request: &Request<B>) -> Option<(&str, Option<u16>)> {
    let (host, port) = match request.uri().authority() {
        Some(authority) => (authority.host(), authority.port_u16()),
        None => {
            let value = text(request.headers(), header::HOST)?;
            match value.rsplit_once(':') {
                // A colon in brackets belongs to an IPv6 address.
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
