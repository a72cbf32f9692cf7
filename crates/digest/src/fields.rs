//! Header fields that carry or request digests.

use std::{borrow::Cow, convert::Infallible};

use http::{HeaderMap, HeaderName, StatusCode, header};
use sfv::{
    BareItemFromInput, KeyRef, Parser,
    visitor::{DictionaryVisitor, EntryVisitor, Ignored, InnerListVisitor, ItemVisitor},
};

use tower_stream_core::list_members;

use crate::{
    DigestValue,
    algorithm::{ErasedAlgorithm, MD5},
};

pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
pub(crate) const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
pub(crate) const X_CONTENT_MD5: HeaderName = HeaderName::from_static("x-content-md5");
pub(crate) const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
pub(crate) const WANT_CONTENT_DIGEST: HeaderName = HeaderName::from_static("want-content-digest");
pub(crate) const WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");

/// Returns whether `Trailer` lists a field that can carry a digest of the body. With `repr`, this includes
/// `Repr-Digest`.
pub(crate) fn announces_digest_trailer(headers: &HeaderMap, repr: bool) -> bool {
    list_members(headers, &header::TRAILER).any(|name| {
        [CONTENT_DIGEST, CONTENT_MD5, X_CONTENT_MD5, REPR_DIGEST][..3 + usize::from(repr)]
            .iter()
            .any(|n| name.eq_ignore_ascii_case(n.as_str()))
    })
}

/// Returns whether the message contains the whole representation, not a part of it (RFC 9110 sections 14.4, 14.5 and
/// 15.3.7). Only then does `Repr-Digest` apply to the bytes of the message.
pub(crate) fn is_whole(status: StatusCode, headers: &HeaderMap) -> bool {
    status != StatusCode::PARTIAL_CONTENT && !headers.contains_key(header::CONTENT_RANGE)
}

/// Returns whether the client of an HTTP/1.1 request accepts trailers: `TE: trailers` (RFC 9110 section 10.1.4). Parsed
/// as hyper does.
pub(crate) fn te_trailers(headers: &HeaderMap) -> bool {
    list_members(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case("trailers"))
}

/// Why a declared digest cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadPromise {
    Malformed,
    Conflicting,
}

/// The digest that header or trailer fields declare for one algorithm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promised {
    pub(crate) algorithm: ErasedAlgorithm,
    /// The digest; `None` when fields contradict each other or none can be parsed.
    pub(crate) digest: Option<DigestValue>,
    /// An error in one of the fields. `digest` may still hold the value of another one.
    pub(crate) bad: Option<BadPromise>,
}

impl Promised {
    /// No digest declared.
    pub(crate) fn nothing(algorithm: ErasedAlgorithm) -> Self {
        Self {
            algorithm,
            digest: None,
            bad: None,
        }
    }

    /// Adds the digest of one field; `None` when it cannot be parsed.
    fn add(&mut self, digest: Option<DigestValue>) {
        if self.bad == Some(BadPromise::Conflicting) {
            return;
        }
        match (digest, self.digest) {
            (None, _) => self.bad = Some(BadPromise::Malformed),
            (Some(digest), Some(other)) if digest != other => {
                self.digest = None;
                self.bad = Some(BadPromise::Conflicting);
            }
            (digest, _) => self.digest = digest,
        }
    }
}

/// Adds the digest of one field to the entry of its algorithm.
fn add(found: &mut Vec<Promised>, algorithm: ErasedAlgorithm, digest: Option<DigestValue>) {
    let by = |promised: &Promised| promised.algorithm.key == algorithm.key;
    let index = found.iter().position(by).unwrap_or_else(|| {
        found.push(Promised::nothing(algorithm));
        found.len() - 1
    });
    found[index].add(digest);
}

/// Collects the digests that header or trailer fields declare for these algorithms. An algorithm without a declared
/// digest is not in the list.
///
/// MD5 is read from `X-Content-MD5` (hex), `Content-MD5` (base64, RFC 1864) and the `md5` member of `Content-Digest`;
/// other algorithms from their member of `Content-Digest` (RFC 9530 section 2). If `repr` is set (the message contains
/// the whole representation), `Repr-Digest` (section 3) is read in the same way. Members of other algorithms are
/// skipped, whatever their values.
///
/// RFC 9651 section 4.2 says to ignore a `Content-Digest` that does not parse as a dictionary. Here it counts as
/// malformed if one of the algorithms appears in the part that cannot be parsed, so that a typing error does not
/// disable the check. Members before the error count.
pub(crate) fn promised(
    fields: &HeaderMap,
    algorithms: &[ErasedAlgorithm],
    repr: bool,
) -> Vec<Promised> {
    let mut found = Vec::new();
    if let Some(md5) = algorithms.iter().find(|algorithm| algorithm.key == MD5) {
        type Read = fn(ErasedAlgorithm, &str) -> Option<DigestValue>;
        let read: [(HeaderName, Read); 2] = [
            (X_CONTENT_MD5, DigestValue::from_hex),
            (CONTENT_MD5, DigestValue::from_base64),
        ];
        for (name, read) in read {
            for value in fields.get_all(name) {
                let text = value.to_str().map_or("", str::trim);
                if !is_composite(text) {
                    add(&mut found, *md5, read(*md5, text));
                }
            }
        }
    }
    for name in &[CONTENT_DIGEST, REPR_DIGEST][..1 + usize::from(repr)] {
        if let Some(text) = combined(fields, name) {
            add_members(&mut found, &text, algorithms);
        }
    }
    found
}

/// Adds the digests of the members of a dictionary.
fn add_members(found: &mut Vec<Promised>, text: &[u8], algorithms: &[ErasedAlgorithm]) {
    // A repeated key is a conflict, although RFC 9651 section 3.2 says that the last member wins.
    let parsed = each_member(text, |key, value| {
        if let Some(algorithm) = algorithms.iter().find(|algorithm| algorithm.key == key) {
            let digest = match value {
                Some(BareItemFromInput::ByteSequence(digest)) => {
                    DigestValue::new(*algorithm, &digest)
                }
                _ => None,
            };
            add(found, *algorithm, digest);
        }
    });
    if parsed.is_err() {
        for algorithm in algorithms {
            let mut members = 0;
            let _ = each_member(text, |key, _| members += usize::from(key == algorithm.key));
            if members < members_in_text(text, algorithm.key) {
                add(found, *algorithm, None);
            }
        }
    }
}

/// Combines the lines of a field into one value (RFC 9110 section 5.2).
fn combined<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = fields.get_all(name).iter().map(|line| line.as_bytes());
    let first = lines.next()?;
    Some(lines.fold(Cow::Borrowed(first), |mut all, line| {
        all.to_mut().extend_from_slice(b", ");
        all.to_mut().extend_from_slice(line);
        all
    }))
}

/// Counts the members with this key (in any case) in a text that does not parse as a dictionary.
fn members_in_text(text: &[u8], key: &str) -> usize {
    text.split(|byte| *byte == b',')
        .map(|member| {
            let end = member.iter().position(|byte| matches!(byte, b'=' | b';'));
            member[..end.unwrap_or(member.len())].trim_ascii()
        })
        .filter(|name| name.eq_ignore_ascii_case(key.as_bytes()))
        .count()
}

/// Calls `each` for the members of a dictionary (RFC 9651 section 3.2) in order, with the item, or with `None` for an
/// inner list. Parameters are ignored. On an error, `each` has been called for the members before it.
fn each_member<'a>(
    text: &'a [u8],
    each: impl FnMut(&str, Option<BareItemFromInput<'a>>),
) -> Result<(), sfv::Error> {
    Parser::new(text).parse_dictionary_with_visitor(Members(each))
}

struct Members<F>(F);

impl<'a, F: FnMut(&str, Option<BareItemFromInput<'a>>)> DictionaryVisitor<'a> for Members<F> {
    type Out = ();
    type Error = Infallible;

    fn entry(&mut self, key: &'a KeyRef) -> Result<impl EntryVisitor<'a>, Infallible> {
        Ok(Member {
            key,
            each: &mut self.0,
        })
    }

    fn finish(self) -> Result<(), Infallible> {
        Ok(())
    }
}

struct Member<'a, 'f, F> {
    key: &'a KeyRef,
    each: &'f mut F,
}

impl<'a, F: FnMut(&str, Option<BareItemFromInput<'a>>)> EntryVisitor<'a> for Member<'a, '_, F> {
    type Error = Infallible;

    fn item(self) -> Result<impl ItemVisitor<'a>, Infallible> {
        Ok(move |item: BareItemFromInput<'a>| {
            (self.each)(self.key.as_str(), Some(item));
            Ok::<_, Infallible>(Ignored)
        })
    }

    fn inner_list(self) -> Result<impl InnerListVisitor<'a>, Infallible> {
        (self.each)(self.key.as_str(), None);
        Ok(Ignored)
    }
}

/// Returns whether this is the tag of an S3 multipart upload, `<hex>-<parts>`. It is a digest of digests and says
/// nothing about the bytes of the message.
fn is_composite(text: &str) -> bool {
    let text = text.trim_matches('"');
    text.rsplit_once('-').is_some_and(|(hex, parts)| {
        hex.len() == 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
            && !parts.is_empty()
            && parts.bytes().all(|b| b.is_ascii_digit())
    })
}

/// Returns the algorithm in `offered` with the highest preference in `Want-Content-Digest` or `Want-Repr-Digest` (RFC
/// 9530 section 4); of equal ones, the first. If the field names none of them, returns the first one. Returns `None` if
/// the client refuses that one.
pub(crate) fn wanted(
    headers: &HeaderMap,
    name: &HeaderName,
    offered: &[ErasedAlgorithm],
) -> Option<ErasedAlgorithm> {
    let first = offered.first().copied();
    let Some(text) = combined(headers, name) else {
        return first;
    };
    // Values from 0 (not acceptable) to 10. The last member of a repeated key counts (RFC 9651 section 3.2).
    let mut preferences = vec![None; offered.len()];
    let parsed = each_member(&text, |key, value| {
        if let Some(index) = offered.iter().position(|offer| offer.key == key) {
            preferences[index] = match value {
                Some(BareItemFromInput::Integer(preference)) => {
                    u8::try_from(preference).ok().filter(|p| *p <= 10)
                }
                _ => None,
            };
        }
    });
    if parsed.is_err() {
        return first;
    }
    let preferred = offered
        .iter()
        .zip(&preferences)
        .rev()
        .max_by_key(|(_, preference)| **preference)
        .filter(|(_, preference)| **preference > Some(0));
    match preferred {
        Some((algorithm, _)) => Some(*algorithm),
        None => first.filter(|_| preferences[0].is_none()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Algorithm, Md5};

    const HELLO: &str = "5d41402abc4b2a76b9719d911017c592";
    const HELLO_64: &str = "XUFAKrxLKna5cZ2REBfFkg==";

    fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    /// The digest that can be read, and what is wrong.
    fn promise<D: Algorithm>(fields: &HeaderMap) -> (Option<DigestValue>, Option<BadPromise>) {
        let found = promised(fields, &[ErasedAlgorithm::of::<D>()], false);
        assert!(found.len() < 2);
        found
            .first()
            .map_or((None, None), |found| (found.digest, found.bad))
    }

    /// A digest that can be read, nothing, or what is wrong.
    fn md5(of: &[(&'static str, &str)]) -> Result<Option<DigestValue>, BadPromise> {
        match promise::<Md5>(&fields(of)) {
            (digest, None) => Ok(digest),
            (None, Some(bad)) => Err(bad),
            (Some(_), Some(_)) => panic!("both: {of:?}"),
        }
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
            (Some(sha), None)
        );
    }

    #[test]
    fn members_that_are_not_understood_are_skipped() {
        let digest = Some(DigestValue::of::<Md5>("hello"));
        let hello = Ok(digest);
        let md5_member = format!("md5=:{HELLO_64}:");
        for foreign in [
            "sha-256=:AAAA:;note=\"a,b\"",
            "sha-256=\"a, md5=b\"",
            "flag",
            "list=(1 2 \"x,y\");q=1",
            "date=@1659578233",
            "name=%\"caf%c3%a9, x\"",
            "n=-1.5",
            "md5-sess=:AA==:",
        ] {
            for text in [
                format!("{foreign}, {md5_member}"),
                format!("{md5_member} ,\t{foreign}"),
            ] {
                assert_eq!(md5(&[("content-digest", &text)]), hello, "{text}");
            }
            let lines = [
                ("content-digest", foreign),
                ("content-digest", &*md5_member),
            ];
            let appended: HeaderMap = {
                let mut map = HeaderMap::new();
                for (name, value) in lines {
                    map.append(HeaderName::from_static(name), value.parse().unwrap());
                }
                map
            };
            assert_eq!(promise::<Md5>(&appended).0, digest, "{foreign}");
            let beside = [("content-digest", foreign), ("x-content-md5", HELLO)];
            assert_eq!(md5(&beside), hello, "{foreign}");
        }
        assert_eq!(md5(&[("content-digest", "")]), Ok(None));
        assert_eq!(md5(&[("content-digest", "sha-256=!, foo")]), Ok(None));
    }

    #[test]
    fn a_readable_promise_counts_beside_one_that_is_not() {
        let hello = DigestValue::of::<Md5>("hello");
        for digest in [
            "md5",
            "md5=?1",
            "md5=(:AA==:)",
            "MD5=:AA==:",
            "sha-256=!, md5=:AA==:",
            "=, md5 = :AA==:",
        ] {
            assert_eq!(
                promise::<Md5>(&fields(&[
                    ("content-digest", digest),
                    ("x-content-md5", HELLO)
                ])),
                (Some(hello), Some(BadPromise::Malformed)),
                "{digest}"
            );
        }
        // Only the member before the error counts.
        let text = format!("md5=:{HELLO_64}:, sha-256=!");
        assert_eq!(md5(&[("content-digest", &text)]), Ok(Some(hello)));
    }

    #[cfg(feature = "sha2")]
    #[test]
    fn several_algorithms_are_promised_beside_each_other() {
        let all = |of: &[(&'static str, &str)], repr| {
            let mut found = promised(&fields(of), ErasedAlgorithm::ALL, repr);
            found.sort_by_key(|promised| promised.algorithm.key);
            let found = found.iter();
            found
                .map(|promised| (promised.algorithm.key, promised.digest, promised.bad))
                .collect::<Vec<_>>()
        };
        let md5 = DigestValue::of::<Md5>("hello");
        let sha = DigestValue::of::<sha2::Sha256>("hello");
        let both = format!("{}, {}", sha.content_digest(), md5.content_digest());
        let found = [("md5", Some(md5), None), ("sha-256", Some(sha), None)];
        assert_eq!(all(&[("content-digest", &both)], false), found);
        // A member that cannot be parsed does not affect other algorithms.
        let bad = format!("{}, md5=?1, sha-512=!", sha.content_digest());
        assert_eq!(
            all(&[("content-digest", &bad)], false),
            [
                ("md5", None, Some(BadPromise::Malformed)),
                ("sha-256", Some(sha), None),
                ("sha-512", None, Some(BadPromise::Malformed)),
            ]
        );
        // The digest of the representation counts if the message contains all of it.
        let repr = [("repr-digest", &*both), ("content-md5", HELLO_64)];
        assert_eq!(all(&repr, true), found);
        assert_eq!(all(&repr, false), found[..1]);
        let other = DigestValue::of::<Md5>("other").content_digest();
        assert_eq!(
            all(&[("repr-digest", &other), ("content-md5", HELLO_64)], true),
            [("md5", None, Some(BadPromise::Conflicting))]
        );
    }

    #[cfg(feature = "sha2")]
    #[test]
    fn the_wanted_algorithm() {
        use http::HeaderValue;

        let offered = [
            ErasedAlgorithm::of::<Md5>(),
            ErasedAlgorithm::of::<sha2::Sha256>(),
            ErasedAlgorithm::of::<sha2::Sha512>(),
        ];
        let wanted = |fields: &HeaderMap, offered: &[ErasedAlgorithm]| {
            wanted(fields, &WANT_CONTENT_DIGEST, offered).map(|algorithm| algorithm.key)
        };
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
        assert!(announces_digest_trailer(
            &fields(&[("trailer", "x-a, Content-Digest")]),
            false
        ));
        assert!(!announces_digest_trailer(
            &fields(&[("trailer", "x-a, grpc-status")]),
            true
        ));
        for repr in [true, false] {
            let trailer = fields(&[("trailer", "Repr-Digest")]);
            assert_eq!(announces_digest_trailer(&trailer, repr), repr);
        }
    }
}
