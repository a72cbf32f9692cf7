//! Fields that speak of one connection, which is not the one to this client.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};

/// Whether a field is about a connection (RFC 9110 section 7.6.1) by itself, without `Connection` naming it.
pub(crate) fn is_of_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade"
    )
}

/// Removes the fields of a connection that a handler has copied from an upstream, and those that `Connection` names.
///
/// `Connection: close` stays where the protocol has it: the drain, or the handler, means this connection. `Trailer` stays
/// although it is hop-by-hop by its nature, for it names the trailers of this very response. HTTP/2 and 3 have none of these
/// fields (RFC 9113 section 8.2.2, RFC 9114 section 4.2).
#[cold]
pub(crate) fn remove(headers: &mut HeaderMap, status: StatusCode, version: Version) {
    let mut closes = false;
    let lines: Vec<_> = headers
        .get_all(header::CONNECTION)
        .iter()
        .cloned()
        .collect();
    for option in lines.iter().flat_map(options) {
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
    // a 426 has to say what to upgrade to (RFC 9110 section 15.5.22)
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

fn options(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
}
