//! What happens to a body with a declared digest.

use super::*;

/// With a length, chunked and over h2; ended by `None` or `is_end_stream`; ready or pending: the client never gets a
/// complete corrupt body, and always gets a complete correct one.
#[tokio::test]
async fn a_corrupt_body_never_looks_whole() {
    let whole = noise(1000);
    let promise = md5_hex(&whole);
    for length in [true, false] {
        // An h1 server does not poll after the declared length, an h2 server does.
        for polls_on in [true, false] {
            for tells_end in [true, false] {
                for pace in [true, false] {
                    for bad in [None, Some(0), Some(500), Some(999)] {
                        let sent = bad.map_or_else(|| whole.clone(), |at| corrupted(&whole, at));
                        let steps = frames(&sent, 100);
                        let mut body = if pace {
                            paced(steps)
                        } else {
                            MockBody::new(steps)
                        };
                        if tells_end {
                            body = body.tells_end();
                        }
                        let mut head = vec![("x-content-md5", &*promise)];
                        head.extend(length.then_some(("content-length", "1000")));
                        let (layer, outcomes) = recording(VerifyDigestLayer::md5());
                        let out: Out = pass(&layer, get(Version::HTTP_11), response(body, &head));
                        let cell = format!(
                            "length {length}, polls on {polls_on}, tells end {tells_end}, paced {pace}, bad {bad:?}"
                        );

                        let status = out.status();
                        let read = read(
                            out.into_body(),
                            (length && !polls_on && status == 200).then_some(1000),
                        )
                        .await;
                        if bad.is_none() {
                            assert_eq!(
                                (status, &read.data[..]),
                                (StatusCode::OK, &whole[..]),
                                "{cell}"
                            );
                            assert!(read.error.is_none(), "{cell}");
                            assert_eq!(outcome(&outcomes).verdict, Verdict::Verified, "{cell}");
                            continue;
                        }
                        if pace {
                            assert_eq!(kind(&read.error.expect(&cell)), FaultKind::DigestMismatch);
                            if length {
                                assert!(
                                    read.data.len() < 1000,
                                    "{cell}: the declared length must not arrive"
                                );
                            }
                        } else {
                            assert_eq!(status, StatusCode::BAD_GATEWAY, "{cell}");
                        }
                        let outcome = outcome(&outcomes);
                        assert_eq!(outcome.verdict, Verdict::Mismatch, "{cell}");
                        assert_eq!(outcome.expected, Some(DigestValue::of::<Md5>(&whole)));
                        assert_eq!(outcome.actual, Some(DigestValue::of::<Md5>(&sent)));
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn the_last_frame_is_judged_in_the_poll_that_gives_it_out() {
    let body = MockBody::new([
        pending(),
        data("ab"),
        data("c"),
        pending(),
        data("never polled"),
    ]);
    let probe = body.probe();
    let head = [
        ("content-length", "3"),
        ("x-content-md5", &*md5_hex(b"abd")),
    ];
    let out: Out = pass(
        &VerifyDigestLayer::md5(),
        get(Version::HTTP_11),
        response(body, &head),
    );
    let mut body = out.into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "ab"
    );
    let polls = probe.polls();
    assert!(!body.is_end_stream());
    assert_eq!(
        kind(&body.frame().await.unwrap().unwrap_err()),
        FaultKind::DigestMismatch
    );
    assert_eq!(probe.polls(), polls + 1);
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
    assert_eq!(probe.polls(), polls + 1, "what failed is not polled again");
}

/// No frame waits for the next frame or for the result of the check.
#[tokio::test(start_paused = true)]
async fn a_slow_stream_is_not_delayed() {
    let second = Duration::from_secs(1);
    let steps = (0..5).flat_map(|_| [data("event"), mock::sleep(second)]);
    let head = [("x-content-md5", &*md5_hex(&b"event".repeat(5)))];
    let start = tokio::time::Instant::now();
    let out: Out = pass(
        &VerifyDigestLayer::md5(),
        get(Version::HTTP_11),
        response(MockBody::new(steps), &head),
    );
    let mut body = out.into_body();
    for i in 0..5 {
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(start.elapsed(), second * i);
    }
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn every_split_of_200_bytes_is_verified() {
    let body = noise(200);
    let head = [("x-content-md5", &*md5_hex(&body))];
    for at in 0..=200 {
        let steps = [
            data(""),
            data(body.slice(..at)),
            data(""),
            data(body.slice(at..)),
            data(""),
        ];
        let (layer, outcomes) = recording(VerifyDigestLayer::md5());
        let inner = response(paced(steps.into()), &head);
        let out: Out = pass(&layer, get(Version::HTTP_2), inner);
        assert!(read(out.into_body(), None).await.error.is_none());
        assert_eq!(
            outcome(&outcomes).verdict,
            Verdict::Verified,
            "split at {at}"
        );
    }
}

#[tokio::test]
async fn lengths_around_the_padding_are_verified() {
    for len in [0, 1, 55, 56, 63, 64, 65] {
        let body = noise(len);
        for promise in [
            ("x-content-md5", md5_hex(&body)),
            (
                "content-digest",
                DigestValue::of::<Md5>(&body).content_digest(),
            ),
            ("content-md5", DigestValue::of::<Md5>(&body).base64()),
        ] {
            let (layer, outcomes) = recording(VerifyDigestLayer::md5());
            let out: Out = pass(
                &layer,
                get(Version::HTTP_11),
                response(MockBody::new(frames(&body, 10)), &[(promise.0, &promise.1)]),
            );
            assert_eq!((out.status(), out.headers().len()), (StatusCode::OK, 1));
            assert_eq!(read(out.into_body(), None).await.data, body);
            let outcome = outcome(&outcomes);
            assert_eq!(
                (outcome.verdict, outcome.bytes),
                (Verdict::Verified, len as u64)
            );
        }
    }
}

#[tokio::test]
async fn a_short_corrupt_body_becomes_a_502_that_keeps_what_is_still_true() {
    let head = [
        ("x-content-md5", &*md5_hex(b"good")),
        ("content-length", "4"),
        ("content-type", "text/plain"),
        ("etag", "\"1\""),
        ("vary", "origin"),
        ("access-control-allow-origin", "*"),
        ("connection", "close"),
    ];
    let (layer, outcomes) = recording(VerifyDigestLayer::md5());
    let mut request = get(Version::HTTP_11);
    let fault = Exchange::of(request.extensions_mut());
    fault.set_request_id("id-17".parse().unwrap());
    let out: Out = pass(
        &layer,
        request,
        response(MockBody::new([data("evil")]), &head),
    );
    assert_eq!(out.status(), StatusCode::BAD_GATEWAY);
    let mut names: Vec<_> = out.headers().keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "access-control-allow-origin",
            "connection",
            "content-type",
            "vary"
        ]
    );
    assert_eq!(out.headers()["content-type"], "application/problem+json");
    assert_eq!(fault.cause().unwrap().kind(), FaultKind::DigestMismatch);
    let handle = out
        .extensions()
        .get::<DigestHandle<Verification>>()
        .unwrap()
        .clone();
    assert_eq!(handle.get().unwrap().verdict, Verdict::Mismatch);
    assert_eq!(outcome(&outcomes).bytes, 4);
    let exact = out.body().size_hint().exact().unwrap();
    let problem = read(out.into_body(), None).await.data;
    assert_eq!(problem.len() as u64, exact);
    let problem = String::from_utf8(problem).unwrap();
    for part in [
        r#""title":"BadDigest""#,
        r#""status":502"#,
        r#""instance":"id-17""#,
    ] {
        assert!(problem.contains(part), "{problem}");
    }
}

#[tokio::test]
async fn a_body_of_another_length_than_declared_is_corrupt() {
    let promise = md5_hex(b"sixbyt");
    for (declared, expected) in [("5", FaultKind::Other), ("7", FaultKind::ShortBody)] {
        for tells_end in [true, false] {
            for pace in [true, false] {
                let steps = vec![data("six"), data("byt")];
                let mut body = if pace {
                    paced(steps)
                } else {
                    MockBody::new(steps)
                };
                if tells_end {
                    body = body.tells_end();
                }
                let (layer, outcomes) = recording(VerifyDigestLayer::md5());
                let head = [("content-length", declared), ("x-content-md5", &*promise)];
                let out: Out = pass(&layer, get(Version::HTTP_11), response(body, &head));
                let status = out.status();
                let read = read(out.into_body(), None).await;
                assert_eq!(status == StatusCode::BAD_GATEWAY, !pace);
                assert_eq!(read.error.as_ref().map(kind), pace.then_some(expected));
                assert_eq!(outcome(&outcomes).verdict, Verdict::LengthMismatch);
            }
        }
    }
}

#[tokio::test]
async fn an_error_of_the_body_passes_as_itself() {
    for pace in [true, false] {
        let steps = vec![data("half"), error("disk on fire")];
        let body = if pace {
            paced(steps)
        } else {
            MockBody::new(steps)
        };
        let (layer, outcomes) = recording(VerifyDigestLayer::md5());
        let out: Out = pass(
            &layer,
            get(Version::HTTP_11),
            response(body, &[("x-content-md5", &md5_hex(b"whole"))]),
        );
        let read = read(out.into_body(), None).await;
        assert_eq!(
            (read.data, read.error.unwrap().to_string()),
            (b"half".to_vec(), "disk on fire".to_owned())
        );
        assert_eq!(outcome(&outcomes).verdict, Verdict::Aborted);
        assert_eq!(outcome(&outcomes).actual, None);
    }
}

#[tokio::test]
async fn a_body_that_is_dropped_or_panics_is_aborted() {
    let head = [("x-content-md5", &*md5_hex(b"whole"))];
    let (layer, outcomes) = recording(VerifyDigestLayer::md5());
    let out: Out = pass(
        &layer,
        get(Version::HTTP_11),
        response(MockBody::new([data("half"), mock::hang()]), &head),
    );
    drop(out);
    assert_eq!(outcome(&outcomes).verdict, Verdict::Aborted);

    for steps in [
        vec![pending(), data("half"), mock::panic("boom")],
        vec![data("half"), mock::panic("boom")],
    ] {
        let (layer, outcomes) = recording(VerifyDigestLayer::md5());
        let run = async {
            let out: Out = pass(
                &layer,
                get(Version::HTTP_11),
                response(MockBody::new(steps), &head),
            );
            read(out.into_body(), None).await
        };
        assert!(AssertUnwindSafe(run).catch_unwind().await.is_err());
        assert_eq!(outcome(&outcomes).verdict, Verdict::Aborted);
    }
}

#[tokio::test]
async fn http_1_0_without_a_length_is_buffered_or_unverifiable() {
    let whole = noise(1000);
    let head = [("x-content-md5", &*md5_hex(&whole))];
    for (buffer, bad, verdict) in [
        (1000, None, Verdict::Verified),
        (1000, Some(999), Verdict::Mismatch),
        (
            999,
            None,
            Verdict::Unverifiable(Unverifiable::Http10WithoutLength),
        ),
        (
            999,
            Some(999),
            Verdict::Unverifiable(Unverifiable::Http10WithoutLength),
        ),
        (
            0,
            None,
            Verdict::Unverifiable(Unverifiable::Http10WithoutLength),
        ),
    ] {
        let sent = bad.map_or_else(|| whole.clone(), |at| corrupted(&whole, at));
        let (layer, outcomes) = recording(VerifyDigestLayer::md5().buffer_up_to(buffer));
        let body = paced(frames(&sent, 100));
        let out: Out = pass_async(&layer, get(Version::HTTP_10), response(body, &head)).await;
        let status = out.status();
        let read = read(out.into_body(), None).await;
        assert!(read.error.is_none());
        assert_eq!(
            outcome(&outcomes).verdict,
            verdict,
            "buffer {buffer}, bad {bad:?}"
        );
        if verdict == Verdict::Mismatch {
            assert_eq!(status, StatusCode::BAD_GATEWAY);
        } else {
            assert_eq!((status, &read.data[..]), (StatusCode::OK, &sent[..]));
        }
    }
    // With a length, the client notices the early end.
    let head = [head[0], ("content-length", "1000")];
    let body = paced(frames(&corrupted(&whole, 0), 100));
    let out: Out = pass(
        &VerifyDigestLayer::md5(),
        get(Version::HTTP_10),
        response(body, &head),
    );
    assert!(read(out.into_body(), Some(1000)).await.error.is_some());
}

#[tokio::test]
async fn a_mismatch_is_the_fault_of_the_stream() {
    let mut request = get(Version::HTTP_2);
    let fault = Exchange::of(request.extensions_mut());
    let out: Out = pass(
        &VerifyDigestLayer::md5(),
        request,
        response(
            paced(vec![data("evil")]),
            &[("x-content-md5", &md5_hex(b"good"))],
        ),
    );
    assert!(fault.cause().is_none());
    let error = read(out.into_body(), None).await.error.unwrap();
    let message = format!(
        "the md5 of the body is {}, promised was {}",
        md5_hex(b"evil"),
        md5_hex(b"good")
    );
    assert_eq!(error.to_string(), message);
    assert_eq!(
        (
            fault.cause().unwrap().kind(),
            fault.cause().unwrap().message()
        ),
        (FaultKind::DigestMismatch, &*message)
    );
}
