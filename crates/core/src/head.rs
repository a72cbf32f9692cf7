//! What a response head says about its body, and what must be removed when a layer changes the body.

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// The members of one line of a comma-separated list field (RFC 9110 section 5.6.1), without the space around them.
///
/// A comma in a quoted string does not separate members. An empty member is an empty slice.
pub fn members(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    line.split(move |byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    })
    .map(<[u8]>::trim_ascii)
}

/// The [`members`] of a list field over all its lines, in order. Members that are not UTF-8 are skipped.
pub fn list_members<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter();
    lines
        .flat_map(|line| members(line.as_bytes()))
        .filter_map(|member| std::str::from_utf8(member).ok())
}

/// Returns whether the body has a content coding other than `identity`, which hides its records.
#[must_use]
pub fn is_encoded(headers: &HeaderMap) -> bool {
    // Most responses have no such header, and need only one lookup.
    headers.contains_key(header::CONTENT_ENCODING)
        && headers
            .get_all(header::CONTENT_ENCODING)
            .iter()
            .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Returns whether status and content coding allow a layer to write bytes of its own into a body, or after it.
///
/// They do not for a range (206), which is a part of a representation, or with a content coding. A declared length
/// forbids it as well, but depends on the framing.
#[must_use]
pub fn allows_insertion(status: StatusCode, headers: &HeaderMap) -> bool {
    status != StatusCode::PARTIAL_CONTENT && !is_encoded(headers)
}

/// Every field with a digest of a body or of its representation.
///
/// `Repr-Digest` (RFC 9530 section 3) is included, although it applies to the selected representation and not to the
/// content of one message. The representation data includes the content coding (RFC 9110 section 8.1), so a layer that
/// compresses, or changes a byte, selects another representation. If only the *message* differs, it still applies: in a
/// 206 it is the digest of the whole. A layer that only announces a digest must not remove it.
///
/// `Digest` (RFC 3230) is the predecessor of `Repr-Digest`.
const DIGESTS: [HeaderName; 5] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("x-content-md5"),
    HeaderName::from_static("digest"),
];

/// Removes every digest from a head or from trailers, whatever its algorithm, because other bytes are sent. Also
/// removes them from `Trailer`.
pub fn digests_changed(headers: &mut HeaderMap) {
    // Most heads have neither, and a pass over their few names costs less than the look-ups.
    if !headers.keys().any(names_digests) {
        return;
    }
    for name in DIGESTS {
        headers.remove(name);
    }
    if list_members(headers, &header::TRAILER).any(is_digest) {
        let others = list_members(headers, &header::TRAILER).filter(|name| !is_digest(name));
        let others: Vec<_> = others.filter(|name| !name.is_empty()).collect();
        match HeaderValue::try_from(others.join(", ")) {
            Ok(names) if !names.is_empty() => headers.insert(header::TRAILER, names),
            _ => headers.remove(header::TRAILER),
        };
    }
}

fn names_digests(name: &HeaderName) -> bool {
    *name == header::TRAILER || DIGESTS.contains(name)
}

fn is_digest(name: &str) -> bool {
    DIGESTS
        .iter()
        .any(|digest| name.eq_ignore_ascii_case(digest.as_str()))
}

/// Removes what a head says about bytes that a layer is about to change: `Content-Length`, every digest,
/// `Accept-Ranges` and a strong `ETag`. A weak one (`W/".."`, RFC 9110 section 8.8.1) stays, because it does not
/// identify exact bytes.
pub fn bytes_changed(headers: &mut HeaderMap) {
    let of_bytes = |name: &HeaderName| {
        *name == header::CONTENT_LENGTH
            || *name == header::ACCEPT_RANGES
            || *name == header::ETAG
            || names_digests(name)
    };
    if !headers.keys().any(of_bytes) {
        return;
    }
    digests_changed(headers);
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::ACCEPT_RANGES);
    if headers.get(header::ETAG).is_some_and(is_strong) {
        headers.remove(header::ETAG);
    }
}

/// Adjusts a head after a layer added a content coding. Every digest is removed. A strong `ETag` that is still that of
/// the unencoded bytes becomes weak, because the encoded bytes are another representation of the same state (RFC 9110
/// section 8.8.1). The layer itself has set `Content-Encoding` and `Content-Length`.
pub fn bytes_encoded(headers: &mut HeaderMap, etag_of_plain: Option<&HeaderValue>) {
    digests_changed(headers);
    let shared = headers
        .get(header::ETAG)
        .filter(|tag| Some(*tag) == etag_of_plain);
    if let Some(tag) = shared.filter(|tag| is_strong(tag))
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        headers.insert(header::ETAG, weak);
    }
}

/// In the extensions of a response to which a layer added `Cache-Control: no-transform`, for the proxies between server
/// and client. The handler has not requested it, so layers of the same server may still compress. See
/// [`forbids_transform`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AddedNoTransform;

/// Returns whether the handler forbids transforming its response: `Cache-Control` has `no-transform` (RFC 9111 section
/// 5.2.2.6), and no layer has [added](AddedNoTransform) it. A layer that compresses leaves such a response unchanged.
///
/// ```
/// use tower_http::compression::CompressionLayer;
/// use tower_stream_core::forbids_transform;
///
/// let layer = CompressionLayer::new()
///     .compress_when(|_, _, headers: &_, extensions: &_| !forbids_transform(headers, extensions));
/// # drop(layer);
/// ```
#[must_use]
pub fn forbids_transform(headers: &HeaderMap, extensions: &Extensions) -> bool {
    let forbids = |directive: &str| directive.eq_ignore_ascii_case("no-transform");
    list_members(headers, &header::CACHE_CONTROL).any(forbids)
        && extensions.get::<AddedNoTransform>().is_none()
}

fn is_strong(tag: &HeaderValue) -> bool {
    !tag.as_bytes().starts_with(b"W/")
}

/// Copies the headers that still apply when another response replaces this one: `Connection`, `Vary` and
/// `Access-Control-*`, without which a browser could not read the response.
pub fn head_replaced(old: &HeaderMap, new: &mut HeaderMap) {
    for (name, value) in old {
        let stays = name == header::CONNECTION
            || name == header::VARY
            || name.as_str().starts_with("access-control-");
        if stays {
            new.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_spoke_of_the_bytes_goes_and_the_rest_stays() {
        let mut headers = HeaderMap::new();
        for name in [
            "content-length",
            "content-md5",
            "x-content-md5",
            "content-digest",
            "repr-digest",
            "digest",
            "accept-ranges",
            "etag",
            "content-type",
            "last-modified",
        ] {
            headers.insert(name, HeaderValue::from_static("\"1\""));
        }
        bytes_changed(&mut headers);
        let mut left: Vec<_> = headers.keys().map(|k| k.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "last-modified"]);
        headers.insert("etag", HeaderValue::from_static("W/\"1\""));
        bytes_changed(&mut headers);
        assert!(headers.contains_key("etag"));
    }

    #[test]
    fn trailers_announce_no_digest_of_other_bytes() {
        for (lines, left) in [
            (&["X-Content-MD5"][..], &[][..]),
            (&["grpc-status"], &["grpc-status"]),
            (
                &[
                    "x-sum , content-digest,grpc-status",
                    "Content-MD5",
                    "x-other",
                ],
                &["x-sum, grpc-status, x-other"],
            ),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("trailer", HeaderValue::from_static(line));
            }
            digests_changed(&mut headers);
            assert_eq!(headers.get_all("trailer").iter().collect::<Vec<_>>(), left);
        }
    }

    #[test]
    fn an_encoded_body_has_a_weak_tag_and_no_digest() {
        let value = HeaderValue::from_static;
        for (before, own, left) in [
            (Some("\"1\""), "\"1\"", "W/\"1\""),
            (Some("W/\"1\""), "W/\"1\"", "W/\"1\""),
            // The layer has set a tag of its own.
            (Some("\"1\""), "\"1-gzip\"", "\"1-gzip\""),
            (None, "\"1\"", "\"1\""),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("etag", value(own));
            headers.insert("content-digest", value("md5=:AAAA:"));
            headers.insert("content-length", value("9"));
            bytes_encoded(&mut headers, before.map(value).as_ref());
            assert_eq!(headers["etag"], left);
            assert!(!headers.contains_key("content-digest"));
            assert!(headers.contains_key("content-length"));
        }
    }

    #[test]
    fn a_range_and_an_encoded_body_take_no_bytes() {
        let (ok, part) = (StatusCode::OK, StatusCode::PARTIAL_CONTENT);
        let mut headers = HeaderMap::new();
        assert!(allows_insertion(ok, &headers) && !allows_insertion(part, &headers));
        headers.insert("content-encoding", HeaderValue::from_static("Identity"));
        assert!(allows_insertion(ok, &headers));
        headers.append("content-encoding", HeaderValue::from_static("br"));
        assert!(!allows_insertion(ok, &headers));
    }

    #[test]
    fn only_a_no_transform_of_the_handler_forbids() {
        for (line, forbids) in [
            ("no-cache", false),
            ("no-cache , No-Transform", true),
            ("x-no-transform", false),
            ("private=\"a, no-transform, b\"", false),
            ("private=\"a\\\", b\", no-transform", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("cache-control", HeaderValue::from_static(line));
            let mut extensions = Extensions::new();
            assert_eq!(forbids_transform(&headers, &extensions), forbids, "{line}");
            extensions.insert(AddedNoTransform);
            assert!(!forbids_transform(&headers, &extensions), "{line}");
        }
    }

    #[test]
    fn a_list_goes_over_all_lines() {
        let mut headers = HeaderMap::new();
        headers.append("te", HeaderValue::from_static("gzip;q=0.5 ,trailers"));
        headers.append("te", HeaderValue::from_static(" , x"));
        let members: Vec<_> = list_members(&headers, &header::TE).collect();
        assert_eq!(members, ["gzip;q=0.5", "trailers", "", "x"]);
    }

    #[test]
    fn a_replaced_head_keeps_what_is_not_of_its_body() {
        let mut old = HeaderMap::new();
        for name in [
            "access-control-allow-origin",
            "connection",
            "content-length",
            "content-type",
            "set-cookie",
            "vary",
        ] {
            old.append(name, HeaderValue::from_static("x"));
        }
        let mut new = HeaderMap::new();
        new.insert("vary", HeaderValue::from_static("y"));
        head_replaced(&old, &mut new);
        let mut kept: Vec<_> = new.keys().map(|k| k.as_str()).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["access-control-allow-origin", "connection", "vary"]);
        assert_eq!(new.get_all("vary").iter().collect::<Vec<_>>(), ["y", "x"]);
    }
}
