//! Protection against requests that another web page makes a browser send.
//!
//! A server on `localhost` is reachable from every page that its user opens. Two checks refuse what such a page can do:
//! [`refuse_foreign`] a request that changes something, [`refuse_rebound`] a request to a name that is not ours. Clients
//! that are not browsers send neither `Origin` nor `Sec-Fetch-Site`, and are not affected by the first.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode, Uri, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::problem::Problem;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses a request with an unsafe method (RFC 9110, section 9.2.1) that a page of another origin made.
pub(crate) async fn refuse_foreign(request: Request, next: Next) -> Response {
    if request.method().is_safe() || is_own(request.uri(), request.headers()) {
        return next.run(request).await;
    }
    forbidden("this request comes from a web page of another origin")
}

/// Whether no browser sent the request, or one that shows a page of this server.
fn is_own(uri: &Uri, headers: &HeaderMap) -> bool {
    // Another port of the same host is `same-site`, and is not ours.
    let own_site = headers
        .get_all(SEC_FETCH_SITE)
        .iter()
        .all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    own_site
        && headers.get_all(header::ORIGIN).iter().all(|origin| {
            let origin = origin.to_str().unwrap_or_default();
            let mut names = names(uri, headers).peekable();
            names.peek().is_some() && names.all(|name| is_origin(origin, name))
        })
}

/// Whether `origin` is a page of the server that is addressed as `name`. `null`, the origin of a page without one, is not.
fn is_origin(origin: &str, name: &str) -> bool {
    let Some((origin, default_port)) = [("http://", 80), ("https://", 443)]
        .into_iter()
        .find_map(|(scheme, port)| Some((origin.strip_prefix(scheme)?, port)))
    else {
        return false;
    };
    let (Some(origin), Some(name)) = (host_and_port(origin), host_and_port(name)) else {
        return false;
    };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(default_port);
    origin.host().eq_ignore_ascii_case(name.host()) && port(&origin) == port(&name)
}

/// Refuses a request to a host name that is not of this server: after DNS rebinding, a browser takes the pages of a
/// foreign name and this listener for one origin, so that those pages could read what it answers.
///
/// Probes are exempt, and so is a GET without `Host`, which no browser sends.
pub(crate) async fn refuse_rebound(
    State(state): State<crate::State>,
    request: Request,
    next: Next,
) -> Response {
    let probe = matches!(request.uri().path(), "/livez" | "/readyz");
    if probe || is_addressed(&request, &state.args.admin_host) {
        return next.run(request).await;
    }
    forbidden("this Host is not known here; --admin-host adds one")
}

fn is_addressed(request: &Request, own: &[String]) -> bool {
    let mut names = names(request.uri(), request.headers()).peekable();
    if names.peek().is_none() {
        return request.method().is_safe();
    }
    names.all(|name| host_and_port(name).is_some_and(|name| is_known(name.host(), own)))
}

fn is_known(host: &str, own: &[String]) -> bool {
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .map_or_else(
            || host.parse::<std::net::Ipv4Addr>().is_ok(),
            |host| host.parse::<std::net::Ipv6Addr>().is_ok(),
        );
    address
        || host.eq_ignore_ascii_case("localhost")
        || own.iter().any(|own| own.eq_ignore_ascii_case(host))
}

/// The names by which the request addresses this server: the authority of its target, and `Host` unless it is empty.
///
/// HTTP/2 has one of them at least (RFC 9113, section 8.3.1), HTTP/1.0 perhaps none. A value that is no text is `"\0"`, which
/// is no name.
fn names<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> impl Iterator<Item = &'r str> {
    let host = headers.get_all(header::HOST).iter();
    let host = host.map(|host| host.to_str().unwrap_or("\0"));
    let target = uri.authority().map(Authority::as_str);
    target
        .into_iter()
        .chain(host.filter(|host| !host.is_empty()))
}

/// `host` or `host:port`, without a user.
fn host_and_port(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let rest = text.strip_prefix(authority.host())?;
    let valid = rest.is_empty() || authority.port_u16().is_some();
    valid.then_some(authority)
}

fn forbidden(detail: &str) -> Response {
    Problem::new(StatusCode::FORBIDDEN, detail).into_response()
}
