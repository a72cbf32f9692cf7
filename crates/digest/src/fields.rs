//! The header fields that carry digests, or ask for them.

use http::{HeaderMap, HeaderName, header};

use crate::{Algorithm, DigestValue, algorithm::MD5};

pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
pub(crate) const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
pub(crate) const X_CONTENT_MD5: HeaderName = HeaderName::from_static("x-content-md5");
pub(crate) const X_SEGMENT_DIGEST: HeaderName = HeaderName::from_static("x-segment-digest");
pub(crate) const WANT_CONTENT_DIGEST: HeaderName = HeaderName::from_static("want-content-digest");

/// Whether `Trailer` announces a field that may carry a digest.
pub(crate) fn announces_digest_trailer(headers: &HeaderMap) -> bool {
    list(headers, &header::TRAILER).any(|name| {
        [CONTENT_DIGEST, CONTENT_MD5, X_CONTENT_MD5]
            .iter()
            .any(|n| name.eq_ignore_ascii_case(n.as_str()))
    })
}

/// Whether the client of an HTTP/1.1 request reads trailers: `TE: trailers` (RFC 9110 section 10.1.4), as hyper reads it.
pub(crate) fn te_trailers(headers: &HeaderMap) -> bool {
    list(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case("trailers"))
}

/// The members of a comma-separated field, over all its lines.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

/// What is wrong with a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadPromise {
    Malformed,
    Conflicting,
}

/// The digest by `D` that header or trailer fields promise, `None` when they promise none.
///
/// For MD5 that is `X-Content-MD5` (hex), `Content-MD5` (base64, RFC 1864) and the `md5` member of `Content-Digest`; for
/// other algorithms their member of `Content-Digest` (RFC 9530 section 2).
pub(crate) fn promise<D: Algorithm>(fields: &HeaderMap) -> Result<Option<DigestValue>, BadPromise> {
    let mut found = None;
    let mut add = |digest: Option<DigestValue>| match (digest, found) {
        (None, _) => Err(BadPromise::Malformed),
        (Some(digest), Some(other)) if digest != other => Err(BadPromise::Conflicting),
        (Some(digest), _) => {
            found = Some(digest);
            Ok(())
        }
    };
    if D::KEY == MD5 {
        type Read = fn(&str) -> Option<DigestValue>;
        let read: [(HeaderName, Read); 2] = [
            (X_CONTENT_MD5, DigestValue::from_hex::<D>),
            (CONTENT_MD5, DigestValue::from_base64::<D>),
        ];
        for (name, read) in read {
            for value in fields.get_all(name) {
                let text = value.to_str().map_or("", str::trim);
                if !is_composite(text) {
                    add(read(text))?;
                }
            }
        }
    }
    // a repeated key is a conflict, for RFC 8941 would silently take the last one
    for member in list(fields, &CONTENT_DIGEST) {
        let (key, value) = member.split_once('=').ok_or(BadPromise::Malformed)?;
        if key == D::KEY {
            let value = value
                .split_once(';')
                .map_or(value, |(value, _parameters)| value.trim_end());
            let base64 = value
                .strip_prefix(':')
                .and_then(|value| value.strip_suffix(':'));
            add(base64.and_then(DigestValue::from_base64::<D>))?;
        }
    }
    Ok(found)
}

/// An S3 tag of a multipart upload, `<hex>-<parts>`, is a digest of digests: it promises nothing of these bytes.
fn is_composite(text: &str) -> bool {
    let text = text.trim_matches('"');
    text.rsplit_once('-').is_some_and(|(hex, parts)| {
        hex.len() == 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
            && !parts.is_empty()
            && parts.bytes().all(|b| b.is_ascii_digit())
    })
}

/// The key among `offered` that the client wants most by `Want-Content-Digest` (RFC 9530 section 4), the earlier of equals.
/// Without a wish for any of them it is the first; `None` when the client refuses that one.
pub(crate) fn wanted(headers: &HeaderMap, offered: &[&'static str]) -> Option<&'static str> {
    if !headers.contains_key(WANT_CONTENT_DIGEST) {
        return offered.first().copied();
    }
    let preference = |key: &&'static str| preference(headers, key);
    let wanted = offered
        .iter()
        .copied()
        .rev()
        .max_by_key(preference)
        .filter(|key| preference(key) > Some(0));
    let unasked = || {
        offered
            .first()
            .copied()
            .filter(|key| preference(key).is_none())
    };
    wanted.or_else(unasked)
}

/// From 0 (not acceptable) to 10, `None` when the client does not say or says it wrong.
fn preference(headers: &HeaderMap, key: &str) -> Option<u8> {
    // of a repeated key the last member counts (RFC 8941 section 3.2)
    list(headers, &WANT_CONTENT_DIGEST)
        .filter_map(|member| {
            let member = member.split_once(';').map_or(member, |(member, _)| member);
            let (name, preference) = member.split_once('=')?;
            (name == key).then(|| preference.trim_end().parse().ok())?
        })
        .filter(|preference| *preference <= 10)
        .last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Md5;
    use http::HeaderValue;

    const HELLO: &str = "5d41402abc4b2a76b9719d911017c592";
    const HELLO_64: &str = "XUFAKrxLKna5cZ2REBfFkg==";

    fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn md5(of: &[(&'static str, &str)]) -> Result<Option<DigestValue>, BadPromise> {
        promise::<Md5>(&fields(of))
    }

    #[test]
    fn every_way_to_promise() {
        let hello = Ok(Some(DigestValue::of::<Md5>("hello")));
        let dictionary = format!("sha-256=:AAAA:, md5=:{HELLO_64}:;note=1 , unixsum=:AA==:");
        assert_eq!(md5(&[]), Ok(None));
        assert_eq!(md5(&[("x-content-md5", HELLO)]), hello);
        assert_eq!(md5(&[("x-content-md5", &HELLO.to_uppercase())]), hello);
        assert_eq!(md5(&[("content-md5", HELLO_64)]), hello);
        assert_eq!(md5(&[("content-digest", &dictionary)]), hello);
        assert_eq!(
            md5(&[
                ("content-digest", &dictionary),
                ("content-md5", HELLO_64),
                ("x-content-md5", HELLO)
            ]),
            hello
        );
        assert_eq!(md5(&[("content-digest", "sha-256=:AAAA:")]), Ok(None));
        assert_eq!(
            md5(&[("repr-digest", "md5=:AAAA:")]),
            Ok(None),
            "a digest of the representation, not of these bytes"
        );
    }

    #[test]
    fn malformed_and_conflicting_promises() {
        let other = "00000000000000000000000000000000";
        for bad in [
            &[("x-content-md5", "")][..],
            &[("x-content-md5", "5d41402a")],
            &[("x-content-md5", HELLO_64)],
            &[("content-md5", HELLO)],
            &[("content-digest", "md5=XUFAKrxLKna5cZ2REBfFkg==")],
            &[("content-digest", "md5=::")],
            &[("content-digest", "md5")],
        ] {
            assert_eq!(md5(bad), Err(BadPromise::Malformed), "{bad:?}");
        }
        for bad in [
            [("x-content-md5", HELLO), ("x-content-md5", other)],
            [("x-content-md5", other), ("content-md5", HELLO_64)],
            [
                ("x-content-md5", other),
                ("content-digest", &format!("md5=:{HELLO_64}:")),
            ],
        ] {
            assert_eq!(md5(&bad), Err(BadPromise::Conflicting), "{bad:?}");
        }
    }

    #[test]
    fn an_s3_composite_tag_is_no_promise() {
        assert_eq!(md5(&[("x-content-md5", &format!("{HELLO}-3"))]), Ok(None));
        assert_eq!(
            md5(&[("content-md5", &format!("\"{HELLO}-12\""))]),
            Ok(None)
        );
        assert_eq!(
            md5(&[("x-content-md5", &format!("{HELLO}-"))]),
            Err(BadPromise::Malformed)
        );
    }

    #[cfg(feature = "sha2")]
    #[test]
    fn other_algorithms_are_promised_by_content_digest_only() {
        let sha = DigestValue::of::<sha2::Sha256>("hello");
        let of = |of: &[(&'static str, &str)]| promise::<sha2::Sha256>(&fields(of));
        assert_eq!(
            of(&[
                ("content-digest", &sha.content_digest()),
                ("x-content-md5", "?")
            ]),
            Ok(Some(sha))
        );
    }

    #[test]
    fn the_wanted_algorithm() {
        let offered = ["md5", "sha-256", "sha-512"];
        let choose = |want: &str| wanted(&fields(&[("want-content-digest", want)]), &offered);
        assert_eq!(choose("sha-256=1"), Some("sha-256"));
        assert_eq!(choose("md5=1, sha-256=10, sha-512=3"), Some("sha-256"));
        assert_eq!(choose("sha-512=5,sha-256=5"), Some("sha-256"));
        assert_eq!(choose("md5=3;q=1, sha-256=2"), Some("md5"));
        assert_eq!(
            choose("crc32c=10"),
            Some("md5"),
            "nothing that is offered is named"
        );
        assert_eq!(choose("crc32c=10, md5=0"), None);
        assert_eq!(choose("md5=0, sha-512=1"), Some("sha-512"));
        assert_eq!(
            choose("md5=11, sha-256=x"),
            Some("md5"),
            "no preferences at all"
        );
        assert_eq!(choose("%"), Some("md5"));

        let want = |want: &str| HeaderValue::try_from(want).unwrap();
        let mut lines = HeaderMap::new();
        assert_eq!(wanted(&lines, &offered), Some("md5"));
        lines.append(WANT_CONTENT_DIGEST, want("md5=1, sha-256=9"));
        lines.append(WANT_CONTENT_DIGEST, want("sha-512=3, sha-256=2"));
        assert_eq!(wanted(&lines, &offered), Some("sha-512"), "over lines");
    }

    #[test]
    fn te_and_trailer_are_lists_over_lines() {
        assert!(te_trailers(&fields(&[
            ("te", "gzip"),
            ("te", "deflate, Trailers")
        ])));
        assert!(!te_trailers(&fields(&[("te", "gzip")])));
        assert!(announces_digest_trailer(&fields(&[(
            "trailer",
            "x-a, Content-Digest"
        )])));
        assert!(!announces_digest_trailer(&fields(&[(
            "trailer",
            "x-a, grpc-status"
        )])));
    }
}
