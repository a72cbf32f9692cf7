//! What is a promise, and what is none.

use super::*;

#[tokio::test]
async fn a_promise_in_announced_trailers() {
    let good = md5_hex(b"body");
    let bad = md5_hex(b"other");
    for (head, tail, verdict) in [
        (None, Some(&good), Verdict::Verified),
        (None, Some(&bad), Verdict::Mismatch),
        (None, None, Verdict::Unverifiable(Unverifiable::NoTrailer)),
        (Some(&good), Some(&good), Verdict::Verified),
        (Some(&good), Some(&bad), Verdict::Mismatch),
        (Some(&bad), Some(&good), Verdict::Mismatch),
        (Some(&good), None, Verdict::Verified),
        (
            None,
            Some(&"not hex".to_owned()),
            Verdict::Unverifiable(Unverifiable::Malformed),
        ),
    ] {
        for pace in [true, false] {
            let mut steps = vec![data("bo"), data("dy")];
            steps.extend(tail.map(|tail| trailer("x-content-md5", tail)));
            let body = if pace {
                paced(steps)
            } else {
                MockBody::new(steps)
            };
            let mut fields = vec![("trailer", "x-content-md5")];
            fields.extend(head.map(|head| ("x-content-md5", head.as_str())));
            let (layer, outcomes) = recording(VerifyDigestLayer::md5());
            let out: Out = pass(&layer, get(Version::HTTP_2), response(body, &fields));
            let refused = out.status() == StatusCode::BAD_GATEWAY;
            let read = read(out.into_body(), None).await;
            let cell = format!("head {head:?}, tail {tail:?}, paced {pace}");
            assert_eq!(outcome(&outcomes).verdict, verdict, "{cell}");
            assert_eq!(
                refused || read.error.is_some(),
                verdict == Verdict::Mismatch,
                "{cell}"
            );
            assert_eq!(refused, verdict == Verdict::Mismatch && !pace, "{cell}");
        }
    }
    // unannounced trailers are looked at when told to
    let body = MockBody::new([data("body"), trailer("x-content-md5", &bad)]);
    let (layer, outcomes) = recording(VerifyDigestLayer::md5().expect_trailers(true));
    drop::<Out>(pass(&layer, get(Version::HTTP_2), response(body, &[])));
    assert_eq!(outcome(&outcomes).verdict, Verdict::Mismatch);
}

#[tokio::test]
async fn trailers_that_nobody_reads_are_reported() {
    let body = paced(vec![
        data("body"),
        trailer("x-content-md5", &md5_hex(b"body")),
    ]);
    let (layer, outcomes) = recording(VerifyDigestLayer::md5());
    let head = [("trailer", "x-content-md5"), ("content-length", "4")];
    let out: Out = pass(&layer, get(Version::HTTP_11), response(body, &head));
    assert_eq!(read(out.into_body(), Some(4)).await.data, b"body");
    assert_eq!(
        outcome(&outcomes).verdict,
        Verdict::Unverifiable(Unverifiable::NoTrailer)
    );
}

#[tokio::test]
async fn promises_that_cannot_be_read() {
    let cases = [
        (vec![("x-content-md5", "nonsense")], Unverifiable::Malformed),
        (
            vec![
                ("x-content-md5", "d41d8cd98f00b204e9800998ecf8427e"),
                ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
            ],
            Unverifiable::Conflicting,
        ),
    ];
    for (head, why) in cases {
        for (policy, status) in [
            (OnBadPromise::Ignore, 200),
            (OnBadPromise::Warn, 200),
            (OnBadPromise::Refuse, 502),
        ] {
            for pace in [true, false] {
                let body = if pace {
                    paced(vec![data("x")])
                } else {
                    MockBody::new([data("x")])
                };
                let (layer, outcomes) = recording(VerifyDigestLayer::md5().on_bad_promise(policy));
                let out: Out = pass(&layer, get(Version::HTTP_10), response(body, &head));
                assert_eq!(out.status(), status, "{policy:?}");
                assert!(out.extensions().get::<Promise>().is_none());
                let read = read(out.into_body(), None).await;
                assert_eq!(read.data == b"x", status == 200);
                assert_eq!(outcome(&outcomes).verdict, Verdict::Unverifiable(why));
            }
        }
    }
}

#[tokio::test]
async fn what_promises_nothing_is_not_touched() {
    let composite = format!("{}-3", md5_hex(b""));
    let sha = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    for head in [
        vec![],
        vec![("x-content-md5", &*composite)],
        vec![("content-digest", sha)],
        vec![("trailer", "grpc-status")],
    ] {
        let (layer, outcomes) = recording(VerifyDigestLayer::md5());
        let body = MockBody::new([data("x")]).with_true_size();
        let probe = body.probe();
        let out: Out = pass(&layer, get(Version::HTTP_11), response(body, &head));
        assert_eq!((out.headers().len(), probe.polls()), (head.len(), 0));
        assert_eq!(out.body().size_hint().exact(), Some(1));
        assert_eq!(read(out.into_body(), None).await.data, b"x");
        assert_eq!(outcomes.lock().len(), 0);
    }
    let out: Out = pass(
        &VerifyDigestLayer::off(),
        get(Version::HTTP_11),
        response(MockBody::new([data("x")]), &[("x-content-md5", "?")]),
    );
    assert_eq!(out.status(), 200);
}

#[tokio::test]
async fn what_has_no_body_is_not_touched() {
    for (method, status) in [
        (Method::HEAD, 200),
        (Method::GET, 204),
        (Method::GET, 304),
        (Method::GET, 101),
        (Method::CONNECT, 200),
    ] {
        let (layer, outcomes) = recording(VerifyDigestLayer::md5());
        let mut request = get(Version::HTTP_11);
        *request.method_mut() = method;
        let mut inner = response(
            MockBody::new([]),
            &[("x-content-md5", &md5_hex(b"of the GET"))],
        );
        *inner.status_mut() = StatusCode::from_u16(status).unwrap();
        let out: Out = pass(&layer, request, inner);
        assert_eq!((out.status().as_u16(), out.headers().len()), (status, 1));
        drop(out);
        assert_eq!(outcomes.lock().len(), 0);
    }
}

#[tokio::test]
async fn a_206_promises_its_part() {
    let (layer, outcomes) = recording(VerifyDigestLayer::md5());
    let mut inner = response(
        MockBody::new([data("part")]),
        &[
            ("x-content-md5", &md5_hex(b"part")),
            ("content-range", "bytes 3-6/100"),
        ],
    );
    *inner.status_mut() = StatusCode::PARTIAL_CONTENT;
    let out: Out = pass(&layer, get(Version::HTTP_11), inner);
    assert_eq!(read(out.into_body(), None).await.data, b"part");
    assert_eq!(outcome(&outcomes).verdict, Verdict::Verified);
}

#[tokio::test]
async fn the_promise_is_left_for_the_layers_outside() {
    let head = [
        ("x-content-md5", &*md5_hex(b"zip")),
        ("content-encoding", "gzip"),
    ];
    let out: Out = pass(
        &VerifyDigestLayer::md5(),
        get(Version::HTTP_11),
        response(MockBody::new([data("zip")]), &head),
    );
    let promise = out.extensions().get::<Promise>().unwrap();
    assert_eq!(
        (promise.algorithm(), promise.digest()),
        ("md5", DigestValue::of::<Md5>("zip").as_bytes())
    );
    assert_eq!(promise.coding().unwrap(), "gzip");
}

#[cfg(feature = "sha2")]
#[tokio::test]
async fn sha_256_is_as_easy() {
    let promise = DigestValue::of::<sha2::Sha256>("good").content_digest();
    for (body, status) in [("good", 200), ("evil", 502)] {
        let layer = VerifyDigestLayer::<sha2::Sha256>::new();
        let inner = response(MockBody::new([data(body)]), &[("content-digest", &promise)]);
        let out: Response<VerifyBody<MockBody, sha2::Sha256>> =
            pass(&layer, get(Version::HTTP_11), inner);
        assert_eq!(out.status(), status);
    }
}
