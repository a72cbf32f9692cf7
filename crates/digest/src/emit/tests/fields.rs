//! Which fields announce the digest, by which algorithm, and what happens to existing fields.

use super::*;

#[tokio::test]
async fn a_digest_that_is_there_is_not_overwritten_unless_told() {
    let own = md5_hex(b"message");
    for (overwrite, expected) in [(false, "theirs"), (true, &*own)] {
        let layer = DigestLayer::md5().overwrite(overwrite);
        let out: Out = pass(
            &layer,
            get(Version::HTTP_2),
            response(
                MockBody::new([data("message")]),
                &[("x-content-md5", "theirs")],
            ),
        );
        assert_eq!(header(&out, "x-content-md5"), Some(expected));
        assert!(
            header(&out, "content-digest").is_some(),
            "the other name is free"
        );

        let body = MockBody::new([
            pending(),
            data("message"),
            trailer("x-content-md5", "theirs"),
        ]);
        let out: Out = pass(&layer, get(Version::HTTP_2), response(body, &[]));
        assert_eq!(
            read(out.into_body(), None).await.trailer("x-content-md5"),
            Some(expected)
        );

        let paced = response(
            MockBody::new([pending(), data("message")]),
            &[("x-content-md5", "theirs")],
        );
        let out: Out = pass(&layer, get(Version::HTTP_2), paced);
        let head = header(&out, "x-content-md5").map(str::to_owned);
        let tail = read(out.into_body(), None)
            .await
            .trailer("x-content-md5")
            .map(str::to_owned);
        let expected = if overwrite {
            (None, Some(own.clone()))
        } else {
            (Some("theirs".to_owned()), None)
        };
        assert_eq!((head, tail), expected);
    }
}

#[tokio::test]
async fn a_promise_under_another_coding_is_replaced() {
    let plain = md5_hex(b"plain");
    let mut stale = response(
        MockBody::new([]),
        &[("content-encoding", "gzip"), ("x-content-md5", &plain)],
    );
    stale
        .extensions_mut()
        .insert(ExpectedDigest::new("md5", [0; 16], &http::HeaderMap::new()));
    let left_alone: Out = pass(
        &DigestLayer::md5().only_if(|_| false),
        get(Version::HTTP_11),
        stale,
    );
    assert_eq!(
        header(&left_alone, "x-content-md5"),
        None,
        "true of other bytes"
    );
    for (coding, expected) in [("identity", &plain), ("gzip", &md5_hex(b"zipped"))] {
        let mut inner = response(
            MockBody::new([data("zipped")]),
            &[("content-encoding", coding), ("x-content-md5", &plain)],
        );
        let mut headers = http::HeaderMap::new();
        headers.insert("content-encoding", "identity".parse().unwrap());
        inner
            .extensions_mut()
            .insert(ExpectedDigest::new("md5", [0; 16], &headers));
        let out: Out = pass(&DigestLayer::md5(), get(Version::HTTP_11), inner);
        assert_eq!(header(&out, "x-content-md5"), Some(&**expected), "{coding}");
    }
}

/// `Repr-Digest` is of the representation after content coding; another digest field does not change it.
#[tokio::test]
async fn a_digest_of_the_representation_stays_as_long_as_the_coding() {
    for (coding, stays) in [("identity", true), ("gzip", false)] {
        let mut inner = response(
            MockBody::new([data("bytes")]),
            &[("content-encoding", coding), ("repr-digest", "md5=:AA==:")],
        );
        let mut headers = http::HeaderMap::new();
        headers.insert("content-encoding", "identity".parse().unwrap());
        inner
            .extensions_mut()
            .insert(ExpectedDigest::new("md5", [0; 16], &headers));
        let layer = DigestLayer::md5().overwrite(true);
        let out: Out = pass(&layer, get(Version::HTTP_11), inner);
        assert_eq!(header(&out, "repr-digest").is_some(), stays, "{coding}");
        assert!(header(&out, "content-digest").is_some());
    }
}

#[cfg(feature = "sha2")]
#[tokio::test]
async fn the_client_chooses_the_algorithm() {
    let wanting = |want: &str| {
        let mut request = get(Version::HTTP_11);
        request
            .headers_mut()
            .insert("want-content-digest", want.parse().unwrap());
        request
    };
    let announced = |layer: &DigestLayer, want: &str| {
        let out: Out = pass(
            layer,
            wanting(want),
            response(MockBody::new([data("hello")]), &[]),
        );
        (
            header(&out, "content-digest").map(str::to_owned),
            out.headers().contains_key("x-content-md5"),
        )
    };
    let md5 = Some(DigestValue::of::<Md5>("hello").content_digest());
    let sha256 = Some(DigestValue::of::<sha2::Sha256>("hello").content_digest());
    let sha512 = Some(DigestValue::of::<sha2::Sha512>("hello").content_digest());
    assert_eq!(
        announced(&DigestLayer::md5(), "sha-256=10, md5=3"),
        (sha256, false)
    );
    assert_eq!(announced(&DigestLayer::md5(), "sha-512=1"), (sha512, false));
    assert_eq!(announced(&DigestLayer::md5(), "md5=1"), (md5.clone(), true));
    assert_eq!(announced(&DigestLayer::md5(), "md5=0"), (None, true));
    assert_eq!(
        announced(&DigestLayer::md5().negotiate(false), "sha-256=10"),
        (md5.clone(), true)
    );

    let layer = DigestLayer::new::<sha2::Sha256>();
    let inner = response(MockBody::new([data("hello")]), &[]);
    let out: Out = pass(&layer, wanting("md5=1"), inner);
    let announced = out.headers()["content-digest"].to_str().unwrap();
    assert_eq!(Some(announced.to_owned()), md5);
}

#[tokio::test]
async fn the_digest_of_a_whole_representation() {
    let layer = DigestLayer::md5().announce(Announce::CONTENT_DIGEST | Announce::REPR_DIGEST);
    let digest = DigestValue::of::<Md5>("hello").content_digest();
    for (status, range, whole) in [
        (200, None, true),
        (404, None, true),
        (206, None, false),
        (200, Some("bytes 0-4/9"), false),
    ] {
        let head: Vec<_> = range
            .map(|range| ("content-range", range))
            .into_iter()
            .collect();
        for paced in [false, true] {
            let steps = paced.then(pending).into_iter().chain([data("hello")]);
            let mut inner = response(MockBody::new(steps), &head);
            *inner.status_mut() = StatusCode::from_u16(status).unwrap();
            let out: Out = pass(&layer, get(Version::HTTP_2), inner);
            let mut fields = out.headers().clone();
            fields.extend(read(out.into_body(), None).await.trailers);
            let cell = format!("{status}, {range:?}, paced {paced}");
            assert_eq!(fields["content-digest"], digest, "{cell}");
            let repr = fields.get("repr-digest");
            assert_eq!(repr.is_some_and(|repr| *repr == digest), whole, "{cell}");
            assert!(!fields.contains_key("x-content-md5"));
        }
    }
}

#[cfg(feature = "sha2")]
#[tokio::test]
async fn a_wish_for_the_digest_of_the_representation() {
    for (announce, sha) in [
        (Announce::REPR_DIGEST, true),
        // Only one digest is computed; the other `Want-` field decides which.
        (Announce::REPR_DIGEST | Announce::CONTENT_DIGEST, false),
    ] {
        let mut request = get(Version::HTTP_11);
        let wish = "sha-256=1".parse().unwrap();
        request.headers_mut().insert("want-repr-digest", wish);
        let inner = response(MockBody::new([data("hello")]), &[]);
        let out: Out = pass(&DigestLayer::md5().announce(announce), request, inner);
        let digest = header(&out, "repr-digest").unwrap();
        assert_eq!(digest.starts_with("sha-256="), sha, "{announce:?}");
    }
}
