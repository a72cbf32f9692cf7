//! What counts as a declared digest, and what does not.

use std::convert::Infallible;

use http::Request;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_stream_core::{StreamEnd, wrapper::Fused};

use super::*;
use crate::{DigestLayer, testing::get_te};

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
            let fails = [
                Verdict::Mismatch,
                Verdict::Unverifiable(Unverifiable::Malformed),
            ]
            .contains(&verdict);
            assert_eq!(refused || read.error.is_some(), fails, "{cell}");
            assert_eq!(refused, fails && !pace, "{cell}");
        }
    }
    // Unannounced trailers are checked with `expect_trailers`.
    let body = MockBody::new([data("body"), trailer("x-content-md5", &bad)]);
    let (layer, outcomes) = recording(VerifyDigestLayer::md5().expect_trailers(true));
    drop::<Out>(pass(&layer, get(Version::HTTP_2), response(body, &[])));
    assert_eq!(outcome(&outcomes).verdict, Verdict::Mismatch);
}

/// Over h2, trailers follow the declared length, and the server polls for them.
#[tokio::test]
async fn a_declared_length_does_not_hide_the_trailers() {
    let bad = md5_hex(b"other");
    for version in [Version::HTTP_2, Version::HTTP_11] {
        for length in [true, false] {
            for pauses in [0, 1, 2] {
                let mut steps = vec![data("body"), trailer("x-content-md5", &bad)];
                if pauses > 0 {
                    // Before the data, or between the data and the trailers.
                    steps.insert(pauses - 1, pending());
                }
                let mut head = vec![("trailer", "x-content-md5")];
                head.extend(length.then_some(("content-length", "4")));
                let (layer, outcomes) = recording(VerifyDigestLayer::md5());
                let out: Out = pass(&layer, get(version), response(MockBody::new(steps), &head));
                let refused = out.status() == StatusCode::BAD_GATEWAY;
                let unread = length && version == Version::HTTP_11;
                let read = read(out.into_body(), (unread && !refused).then_some(4)).await;
                let cell = format!("{version:?}, length {length}, {pauses}");
                assert_eq!(refused, pauses == 0, "{cell}");
                let verdict = outcome(&outcomes).verdict;
                if unread && pauses > 0 {
                    let no_trailer = Verdict::Unverifiable(Unverifiable::NoTrailer);
                    assert_eq!(verdict, no_trailer, "{cell}");
                } else {
                    assert_eq!(verdict, Verdict::Mismatch, "{cell}");
                    assert!(refused || read.error.is_some(), "{cell}");
                }
            }
        }
    }
}

/// A faulty proxy between a `DigestLayer` and a `VerifyDigestLayer`.
#[tokio::test]
async fn what_the_digest_layer_announces_is_checked_downstream() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for corrupt in [false, true] {
            let handler = service_fn(|_: Request<()>| async {
                let body = MockBody::new([data("hello"), pending(), data(" world")]);
                Ok::<_, Infallible>(Response::new(body))
            });
            let proxy = move |data: Bytes| match corrupt {
                true => corrupted(&data, 0),
                false => data,
            };
            let service = ServiceBuilder::new()
                .layer(VerifyDigestLayer::md5())
                .map_response(
                    move |response: Response<ResponseBody<MockBody, DigestLayer>>| {
                        response.map(|body| body.map_frame(move |frame| frame.map_data(proxy)))
                    },
                )
                .layer(DigestLayer::md5())
                .service(handler);
            let mut request = get_te();
            *request.version_mut() = version;
            let response = service.oneshot(request).await.unwrap();
            let refused = response.status() == StatusCode::BAD_GATEWAY;
            let read = read(response.into_body(), None).await;
            assert_eq!(refused || read.error.is_some(), corrupt, "{version:?}");
        }
    }
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

/// An h1 server drops a body at its declared length, before the trailers. For all layers this body was sent completely.
#[tokio::test]
async fn a_body_whose_trailers_are_not_read_is_complete() {
    for tells_end in [false, true] {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&sent);
        let layers = Fused::new()
            .layer(DigestLayer::md5().on_sent(move |sent| into.lock().push(sent.end.clone())))
            .layer(VerifyDigestLayer::md5().expect_trailers(true));
        let mut body = paced(vec![data("bo"), data("dy")]);
        if tells_end {
            body = body.tells_end();
        }
        let inner = response(body, &[("content-length", "4")]);
        let out: Response<ResponseBody<MockBody, Fused<_>>> =
            pass(&layers, get(Version::HTTP_11), inner);
        assert_eq!(read(out.into_body(), Some(4)).await.data, b"body");
        assert_eq!(*sent.lock(), [StreamEnd::Complete], "{tells_end}");
    }
}

/// A body may end without another frame. The end is passed on only after the check.
#[tokio::test]
async fn a_body_that_ends_with_a_pending_is_judged() {
    let head = [("x-content-md5", &*md5_hex(b"other"))];
    let body = MockBody::new([data("body"), pending()]).tells_end();
    let out: Out = pass(
        &VerifyDigestLayer::md5(),
        get(Version::HTTP_2),
        response(body, &head),
    );
    assert!(read(out.into_body(), None).await.error.is_some());
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
                assert!(out.extensions().get::<ExpectedDigest>().is_none());
                let read = read(out.into_body(), None).await;
                assert_eq!(read.data == b"x", status == 200);
                assert_eq!(outcome(&outcomes).verdict, Verdict::Unverifiable(why));
            }
        }
    }
}

#[tokio::test]
async fn by_default_a_promise_that_cannot_be_read_is_an_error() {
    for head in [
        ("content-md5", "garbage"),
        ("x-content-md5", ""),
        ("content-digest", "md5"),
        ("content-digest", "MD5=:XUFAKrxLKna5cZ2REBfFkg==:"),
        (
            "content-digest",
            "sha-256=!, md5=:XUFAKrxLKna5cZ2REBfFkg==:",
        ),
    ] {
        let inner = response(MockBody::new([data("hello")]), &[head]);
        let out: Out = pass(&VerifyDigestLayer::md5(), get(Version::HTTP_11), inner);
        assert_eq!(out.status(), StatusCode::BAD_GATEWAY, "{head:?}");
        assert_eq!(out.headers()["content-type"], "application/problem+json");
    }
}

#[tokio::test]
async fn what_is_not_understood_hides_no_mismatch() {
    let wrong = DigestValue::of::<Md5>("other");
    let member = wrong.content_digest();
    let sha = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    for digests in [
        format!("{sha};note=\"a,b\", {member}"),
        format!("flag, list=(1 2), {member}"),
        format!("{member}, sha-256=!"),
    ] {
        let inner = response(
            MockBody::new([data("hello")]),
            &[("content-digest", &digests)],
        );
        let (layer, outcomes) = recording(VerifyDigestLayer::md5());
        let out: Out = pass(&layer, get(Version::HTTP_11), inner);
        assert_eq!(out.status(), StatusCode::BAD_GATEWAY, "{digests}");
        assert_eq!(outcome(&outcomes).verdict, Verdict::Mismatch, "{digests}");
    }
    // Beside a malformed digest by an algorithm of the layer, when that is not an error.
    let hex = wrong.hex();
    for digests in ["", &format!("{sha};note=\"a,b\""), "sha-256=!", "md5=?1"] {
        for place_in_trailers in [false, true] {
            let mut head = vec![("x-content-md5", &*hex)];
            let mut steps = vec![pending(), data("hello")];
            if place_in_trailers {
                head.push(("trailer", "content-digest"));
                steps.push(trailer("content-digest", digests));
            } else {
                head.push(("content-digest", digests));
            }
            let layer = VerifyDigestLayer::md5().on_bad_promise(OnBadPromise::Warn);
            let (layer, outcomes) = recording(layer);
            let inner = response(MockBody::new(steps), &head);
            let out: Out = pass(&layer, get(Version::HTTP_2), inner);
            let cell = format!("{digests}, in trailers {place_in_trailers}");
            assert!(read(out.into_body(), None).await.error.is_some(), "{cell}");
            assert_eq!(outcome(&outcomes).verdict, Verdict::Mismatch, "{cell}");
        }
    }
}

/// Collects the fields of all events, as text.
struct Log(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().push(text.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn the_log_names_the_path_without_the_query() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = Log(Arc::clone(&lines));
    tracing::subscriber::with_default(log, || {
        for promise in [md5_hex(b"other"), "nonsense".to_owned()] {
            let mut request = get(Version::HTTP_11);
            *request.uri_mut() = "http://user:pw@a.example/up?token=s3cr3t".parse().unwrap();
            let inner = response(
                MockBody::new([data("hello")]),
                &[("x-content-md5", &promise)],
            );
            let layer = VerifyDigestLayer::md5().on_bad_promise(OnBadPromise::Warn);
            drop::<Out>(pass(&layer, request, inner));
        }
    });
    let lines = lines.lock();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &*lines {
        assert!(line.contains("path=\"/up\""), "{line}");
        assert!(!line.contains("s3cr3t") && !line.contains("pw"), "{line}");
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
    let promise = out.extensions().get::<ExpectedDigest>().unwrap();
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
        let layer = VerifyDigestLayer::new::<sha2::Sha256>();
        let inner = response(MockBody::new([data(body)]), &[("content-digest", &promise)]);
        let out: Out = pass(&layer, get(Version::HTTP_11), inner);
        assert_eq!(out.status(), status);
    }
}

#[cfg(feature = "sha2")]
mod several {
    use super::*;
    use crate::{Sha256, Sha512};

    /// Returns the status, whether the body failed, and the outcome.
    async fn check(
        layer: VerifyDigestLayer,
        head: &[(&str, &str)],
        steps: Vec<Step>,
    ) -> (u16, bool, Option<Verification>) {
        let (layer, outcomes) = recording(layer);
        let body = MockBody::new(steps);
        let out: Out = pass(&layer, get(Version::HTTP_2), response(body, head));
        let status = out.status().as_u16();
        let read = read(out.into_body(), None).await;
        let outcome = outcomes.lock().pop();
        (status, read.error.is_some(), outcome)
    }

    #[tokio::test]
    async fn every_promise_is_checked() {
        let md5 = |of: &str| DigestValue::of::<Md5>(of).content_digest();
        let sha256 = |of: &str| DigestValue::of::<Sha256>(of).content_digest();
        let sha512 = |of: &str| DigestValue::of::<Sha512>(of).content_digest();
        for (digests, wrong) in [
            (vec![md5("good")], None),
            (vec![sha512("good")], None),
            (vec![md5("good"), sha256("good"), sha512("good")], None),
            (vec![md5("good"), sha256("evil")], Some("sha-256")),
            (vec![sha256("good"), md5("evil")], Some("md5")),
            (
                vec![md5("good"), sha256("good"), sha512("evil")],
                Some("sha-512"),
            ),
        ] {
            let field = digests.join(", ");
            for paced in [false, true] {
                let mut steps = vec![data("go"), data("od")];
                if paced {
                    steps.insert(1, pending());
                }
                let layer = VerifyDigestLayer::all();
                let (status, failed, outcome) =
                    check(layer, &[("content-digest", &field)], steps).await;
                let outcome = outcome.unwrap();
                let cell = format!("{field}, paced {paced}: {outcome:?}");
                assert_eq!(status == 502 || failed, wrong.is_some(), "{cell}");
                assert_eq!(status == 502, wrong.is_some() && !paced, "{cell}");
                let verdict = wrong.map_or(Verdict::Verified, |_| Verdict::Mismatch);
                assert_eq!(outcome.verdict, verdict, "{cell}");
                let (expected, actual) = (outcome.expected.unwrap(), outcome.actual.unwrap());
                assert_eq!(expected.algorithm(), actual.algorithm(), "{cell}");
                assert_eq!(expected == actual, wrong.is_none(), "{cell}");
                if let Some(wrong) = wrong {
                    assert_eq!(expected.algorithm(), wrong, "{cell}");
                }
            }
        }
    }

    #[tokio::test]
    async fn only_the_algorithms_of_the_layer_are_checked() {
        let evil = DigestValue::of::<Sha512>("evil").content_digest();
        let steps = || vec![data("good")];
        let head = [("content-digest", &*evil)];
        let two = VerifyDigestLayer::md5().and::<Sha256>().and::<Md5>();
        let (status, _, outcome) = check(two.clone(), &head, steps()).await;
        assert_eq!((status, outcome.is_none()), (200, true));
        let (status, ..) = check(two.and::<Sha512>(), &head, steps()).await;
        assert_eq!(status, 502);
        let (status, ..) = check(VerifyDigestLayer::sha256(), &head, steps()).await;
        assert_eq!(status, 200);
    }

    /// The head declares a digest by one algorithm, the trailers by another.
    #[tokio::test]
    async fn announced_trailers_may_hold_any_of_them() {
        let md5 = md5_hex(b"good");
        for (of, verdict) in [("good", Verdict::Verified), ("evil", Verdict::Mismatch)] {
            let late = DigestValue::of::<Sha256>(of).content_digest();
            let head = [("trailer", "content-digest"), ("x-content-md5", &*md5)];
            let steps = vec![pending(), data("good"), trailer("content-digest", &late)];
            let (_, failed, outcome) = check(VerifyDigestLayer::all(), &head, steps).await;
            let outcome = outcome.unwrap();
            assert_eq!(outcome.verdict, verdict);
            assert_eq!(failed, verdict == Verdict::Mismatch);
        }
    }

    #[tokio::test]
    async fn a_promise_that_cannot_be_read_hides_no_other() {
        let evil = DigestValue::of::<Sha256>("evil").content_digest();
        let field = format!("md5=?1, {evil}");
        let head = [("content-digest", &*field)];
        for (policy, verdict) in [
            (OnBadPromise::Ignore, Verdict::Mismatch),
            (OnBadPromise::Warn, Verdict::Mismatch),
            (OnBadPromise::Refuse, Verdict::Aborted),
        ] {
            let layer = VerifyDigestLayer::all().on_bad_promise(policy);
            let (status, _, outcome) = check(layer, &head, vec![data("good")]).await;
            assert_eq!(
                (status, outcome.unwrap().verdict),
                (502, verdict),
                "{policy:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_digest_of_the_representation_is_checked_when_told_to() {
        let evil = DigestValue::of::<Md5>("evil").content_digest();
        let whole = [("repr-digest", &*evil)];
        let part = [whole[0], ("content-range", "bytes 0-3/9")];
        let read = VerifyDigestLayer::md5().repr_digest(true);
        for (layer, head, status) in [
            (VerifyDigestLayer::md5(), &whole[..], 200),
            (read.clone(), &whole, 502),
            (read.clone(), &part, 200),
        ] {
            let got = check(layer, head, vec![data("good")]).await;
            assert_eq!(got.0, status, "{head:?}");
        }
        // The same in trailers.
        for (announced, fails) in [("repr-digest", true), ("x-other", false)] {
            let steps = vec![pending(), data("good"), trailer("repr-digest", &evil)];
            let (_, failed, _) = check(read.clone(), &[("trailer", announced)], steps).await;
            assert_eq!(failed, fails, "{announced}");
        }
        let mut partial = response(MockBody::new([data("good")]), &whole);
        *partial.status_mut() = StatusCode::PARTIAL_CONTENT;
        let out: Out = pass(&read, get(Version::HTTP_11), partial);
        assert_eq!(out.status(), 206);
    }
}
