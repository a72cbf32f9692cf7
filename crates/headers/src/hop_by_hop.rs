//! Fields that describe another connection than the one to this client.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use tower_stream_core::members;

/// Returns whether a field is always hop-by-hop (RFC 9110 section 7.6.1), even if `Connection` does not list it.
#[inline]
pub(crate) fn is_of_connection(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade"
    )
}

/// Removes the hop-by-hop fields that a handler copied from an upstream, and those that `Connection` lists.
///
/// `Connection: close` stays on HTTP/1, because the drain or the handler means this connection. `Trailer` stays
/// although it is hop-by-hop, because it lists the trailers of this response. HTTP/2 and 3 have none of these fields
/// (RFC 9113 section 8.2.2, RFC 9114 section 4.2).
#[cold]
pub(crate) fn remove(headers: &mut HeaderMap, status: StatusCode, version: Version) {
    let mut closes = false;
    let lines: Vec<_> = headers
        .get_all(header::CONNECTION)
        .iter()
        .cloned()
        .collect();
    for option in lines.iter().flat_map(|line| members(line.as_bytes())) {
        closes |= option.eq_ignore_ascii_case(b"close");
        if let Ok(name) = HeaderName::from_bytes(option)
            && name != header::TRAILER
            && name != header::UPGRADE
        {
            headers.remove(name);
        }
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    headers.remove(header::CONNECTION);
    headers.remove(header::TE);
    headers.remove(header::TRANSFER_ENCODING);
    // A 426 must name the protocol to upgrade to (RFC 9110 section 15.5.22).
    if status != StatusCode::UPGRADE_REQUIRED || version >= Version::HTTP_2 {
        headers.remove(header::UPGRADE);
    }
    if version < Version::HTTP_2 {
        let close = closes.then_some("close");
        let upgrade = headers.contains_key(header::UPGRADE).then_some("upgrade");
        for option in close.into_iter().chain(upgrade) {
            headers.append(header::CONNECTION, HeaderValue::from_static(option));
        }
    }
}
