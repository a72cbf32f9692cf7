//! Attributes of a request that several layers read.

use std::{
    mem,
    net::{IpAddr, SocketAddr},
};

use http::{Extensions, Method, Request, Uri, Version, request::Parts};

/// The name of a method that the OpenTelemetry convention does not list, see [`method_name`].
pub const OTHER_METHOD: &str = "_OTHER";

/// The name of a method that the OpenTelemetry HTTP convention lists: those of RFC 9110 section 9, `PATCH` (RFC 5789)
/// and `QUERY` (draft-ietf-httpbis-safe-method-w-body).
///
/// `None` for any other method. A client chooses the method: a layer that used it as an attribute or in the name of a
/// span would let the client create any number of values. Such a layer uses [`OTHER_METHOD`] instead.
///
/// ```
/// use http::Method;
/// use tower_stream_core::method_name;
///
/// assert_eq!(method_name(&Method::QUERY), Some("QUERY"));
/// assert_eq!(method_name(&Method::from_bytes(b"BREW").unwrap()), None);
/// ```
#[must_use]
pub fn method_name(method: &Method) -> Option<&'static str> {
    Some(match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        Method::QUERY => "QUERY",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => return None,
    })
}

/// `url.scheme` of the OpenTelemetry convention: the scheme of the request URI if it is `http` or `https`, as in HTTP/2
/// requests, otherwise `unsaid`. A client can write any other scheme into a request, so these are not used.
#[must_use]
pub fn url_scheme(uri: &Uri, unsaid: &'static str) -> &'static str {
    match uri.scheme_str() {
        Some("http") => "http",
        Some("https") => "https",
        _ => unsaid,
    }
}

/// `network.protocol.version` of the OpenTelemetry convention.
#[must_use]
pub fn protocol_version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_09 => Some("0.9"),
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}

/// Calls a rule of the user with the head of a request whose body stays where it is.
///
/// ```
/// use http::Request;
/// use tower_stream_core::with_head;
///
/// let mut request = Request::get("/a").body("text").unwrap();
/// assert_eq!(with_head(&mut request, |head| head.uri.path().len()), 2);
/// assert_eq!(*request.body(), "text");
/// ```
pub fn with_head<B, T>(request: &mut Request<B>, rule: impl FnOnce(&Parts) -> T) -> T {
    let (mut head, ()) = Request::new(()).into_parts();
    swap_head(&mut head, request);
    let answer = rule(&head);
    swap_head(&mut head, request);
    answer
}

fn swap_head<B>(head: &mut Parts, request: &mut Request<B>) {
    mem::swap(&mut head.method, request.method_mut());
    mem::swap(&mut head.uri, request.uri_mut());
    mem::swap(&mut head.version, request.version_mut());
    mem::swap(&mut head.headers, request.headers_mut());
    mem::swap(&mut head.extensions, request.extensions_mut());
}

/// The template of the route that axum's router matched, from the request extensions.
///
/// `None` outside of a router, for a request that matched no route, and without the feature `matched-path`.
#[must_use]
pub fn matched_route(request: &Extensions) -> Option<&str> {
    #[cfg(feature = "matched-path")]
    {
        let matched = request.get::<axum::extract::MatchedPath>();
        matched.map(axum::extract::MatchedPath::as_str)
    }
    #[cfg(not(feature = "matched-path"))]
    {
        let _ = request;
        None
    }
}

/// The peer address of the connection of a request, in the request extensions.
///
/// `serve` of `tower-stream-serve` inserts it, or axum's `ConnectInfo` if its feature `axum` is on.
/// [`PeerAddr::of`] reads either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr<A>(pub A);

impl<A: Send + Sync + 'static> PeerAddr<A> {
    /// The peer address from the request extensions: a `PeerAddr`, or axum's `ConnectInfo` with the feature
    /// `connect-info`.
    ///
    /// `None` if the server has inserted none, or its listener has addresses of another type.
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use tower_stream_core::PeerAddr;
    ///
    /// let peer = SocketAddr::from(([10, 0, 0, 1], 3000));
    /// let mut extensions = http::Extensions::new();
    /// extensions.insert(PeerAddr(peer));
    /// assert_eq!(PeerAddr::<SocketAddr>::of(&extensions), Some(&peer));
    /// ```
    #[must_use]
    pub fn of(request: &Extensions) -> Option<&A> {
        let known = request.get::<Self>().map(|Self(peer)| peer);
        #[cfg(feature = "connect-info")]
        let known = known.or_else(|| {
            let info = request.get::<axum::extract::ConnectInfo<A>>();
            info.map(|axum::extract::ConnectInfo(peer)| peer)
        });
        known
    }
}

/// The peer address from the request extensions, by [`PeerAddr::of`].
///
/// `None` if the server has inserted none, or the connection is a Unix socket. The peer may be a proxy in front of the
/// client.
#[must_use]
pub fn peer_address(request: &Extensions) -> Option<SocketAddr> {
    PeerAddr::of(request).copied()
}

/// The address in a field of a proxy, which may have a port; an IPv6 address may have brackets.
///
/// ```
/// use tower_stream_core::forwarded_address;
///
/// let address = "2001:db8::1".parse().ok();
/// for text in ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:4711"] {
///     assert_eq!(forwarded_address(text), address);
/// }
/// assert_eq!(forwarded_address("unknown"), None);
/// ```
#[must_use]
pub fn forwarded_address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    text.parse().ok().or_else(with_port).or_else(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_of_the_convention_have_their_name_and_no_other_has() {
        for name in [
            "GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY", "CONNECT", "TRACE",
        ] {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(method_name(&method), Some(name));
        }
        for name in ["get", "Query", "BREW", "PROPFIND"] {
            let method = Method::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(method_name(&method), None, "{name}");
        }
    }

    #[test]
    fn a_scheme_is_one_of_two_whatever_a_client_says() {
        for (uri, scheme) in [
            ("/", "https"),
            ("http://a/", "http"),
            ("HTTPS://a/", "https"),
            ("gopher://a/", "https"),
        ] {
            assert_eq!(url_scheme(&uri.parse().unwrap(), "https"), scheme, "{uri}");
        }
    }

    #[test]
    fn the_peer_is_read_wherever_a_server_puts_it() {
        let mut request = Extensions::new();
        assert_eq!(peer_address(&request), None);
        #[cfg(feature = "connect-info")]
        {
            let peer: SocketAddr = "10.0.0.1:1".parse().unwrap();
            request.insert(axum::extract::ConnectInfo(peer));
            assert_eq!(peer_address(&request), Some(peer));
        }
        let peer: SocketAddr = "[::1]:2".parse().unwrap();
        request.insert(PeerAddr(peer));
        assert_eq!(peer_address(&request), Some(peer));
    }

    #[cfg(feature = "matched-path")]
    #[tokio::test]
    async fn the_route_is_the_one_that_axum_matched() {
        use axum::{Router, body::Body, extract::Request, routing::get};
        use tower::ServiceExt;

        let handler = |request: Request| async move {
            matched_route(request.extensions())
                .map(ToOwned::to_owned)
                .unwrap_or_default()
        };
        let app: Router = Router::new().route("/orders/{id}", get(handler));
        let request = http::Request::get("/orders/17")
            .body(Body::empty())
            .unwrap();
        let response = app.oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), 100)
            .await
            .unwrap();
        assert_eq!(body, "/orders/{id}");
        assert_eq!(matched_route(&Extensions::new()), None);
    }
}
