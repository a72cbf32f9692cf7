//! Where the digest of a complete body is announced.

use super::*;

#[tokio::test]
async fn a_short_ready_body_is_announced_in_the_head() {
    for len in [0, 1, 55, 56, 63, 64, 65, 1000, 64 * 1024] {
        let body = noise(len);
        let (layer, sent) = recording(DigestLayer::md5());
        let out: Out = pass(
            &layer,
            get(Version::HTTP_11),
            response(MockBody::new([data(body.clone())]), &[]),
        );
        assert_eq!(
            header(&out, "x-content-md5"),
            Some(&*md5_hex(&body)),
            "{len}"
        );
        assert_eq!(
            header(&out, "content-digest"),
            Some(&*DigestValue::of::<Md5>(&body).content_digest())
        );
        assert_eq!(header(&out, "content-md5"), None);
        let read = read(out.into_body(), None).await;
        assert_eq!(read.data, body);
        assert!(read.trailers.is_empty() && read.error.is_none());
        let sent = sent.lock();
        let [sent] = &sent[..] else {
            panic!("{sent:?}")
        };
        assert_eq!(sent.digest, Some(DigestValue::of::<md5::Md5>(&body)));
        assert_eq!(
            (sent.bytes, sent.placement, &sent.end),
            (len as u64, Placement::Header, &StreamEnd::Complete)
        );
        assert_eq!((&sent.method, sent.uri.path()), (&Method::GET, "/file"));
    }
}

#[tokio::test]
async fn an_empty_body_has_a_digest() {
    let empty = "d41d8cd98f00b204e9800998ecf8427e";
    for body in [
        MockBody::new([]),
        MockBody::new([]).tells_end(),
        MockBody::new([]).with_true_size(),
        MockBody::new([data("")]),
    ] {
        let out: Out = pass(
            &DigestLayer::md5(),
            get(Version::HTTP_10),
            response(body, &[]),
        );
        assert_eq!(header(&out, "x-content-md5"), Some(empty));
        assert!(read(out.into_body(), None).await.data.is_empty());
    }
}

#[tokio::test]
async fn every_split_of_200_bytes_with_empty_frames_between() {
    let body = noise(200);
    let expected = md5_hex(&body);
    for at in 0..=body.len() {
        let frames = || {
            [
                data(""),
                data(body.slice(..at)),
                data(""),
                data(body.slice(at..)),
                data(""),
            ]
        };
        let out: Out = pass(
            &DigestLayer::md5(),
            get(Version::HTTP_2),
            response(MockBody::new(frames()), &[]),
        );
        assert_eq!(
            header(&out, "x-content-md5"),
            Some(&*expected),
            "ready, split at {at}"
        );
        assert_eq!(read(out.into_body(), None).await.frames.len(), 5);

        let body = MockBody::new([pending()].into_iter().chain(frames()));
        let out: Out = pass(
            &DigestLayer::md5(),
            get(Version::HTTP_2),
            response(body, &[]),
        );
        assert_eq!(
            read(out.into_body(), None).await.trailer("x-content-md5"),
            Some(&*expected),
            "paced, split at {at}"
        );
    }
}

#[tokio::test]
async fn a_body_is_looked_at_until_64_kib_and_no_further() {
    let over = noise(64 * 1024 + 1);
    let layer = DigestLayer::md5();
    let out: Out = pass(
        &layer,
        get(Version::HTTP_2),
        response(MockBody::new([data(over.clone())]), &[]),
    );
    assert_eq!(header(&out, "x-content-md5"), None);
    assert_eq!(
        read(out.into_body(), None).await.trailer("x-content-md5"),
        Some(&*md5_hex(&over))
    );

    let body = MockBody::new(std::iter::repeat_with(|| data(noise(1024))).take(1000));
    let probe = body.probe();
    let out: Out = pass(&layer, get(Version::HTTP_2), response(body, &[]));
    assert_eq!(probe.polls(), 65);
    drop(out);
}

#[tokio::test]
async fn the_first_pending_releases_the_head_with_all_there_is() {
    let body = MockBody::new([data("now"), mock::hang()]);
    let out: Out = pass(
        &DigestLayer::md5(),
        get(Version::HTTP_2),
        response(body, &[]),
    );
    let mut body = out.into_body();
    assert_eq!(
        body.frame()
            .now_or_never()
            .unwrap()
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap(),
        "now"
    );
    assert!(body.frame().now_or_never().is_none());
}

#[tokio::test]
async fn h2_announces_in_trailers_and_keeps_the_length() {
    let body = noise(300);
    let layer = DigestLayer::md5()
        .announce(Announce::CONTENT_DIGEST | Announce::X_CONTENT_MD5 | Announce::CONTENT_MD5);
    for version in [Version::HTTP_2, Version::HTTP_3] {
        let inner = response(paced(&body).with_true_size(), &[("content-length", "300")]);
        let out: Out = pass(&layer, get(version), inner);
        assert_eq!(header(&out, "content-length"), Some("300"));
        let names = "content-digest, x-content-md5, content-md5";
        assert_eq!(header(&out, "trailer"), Some(names));
        assert_eq!(out.body().size_hint().exact(), Some(300));
        let read = read(out.into_body(), None).await;
        let digest = DigestValue::of::<Md5>(&body);
        assert_eq!(read.data, body);
        assert_eq!(read.trailer("x-content-md5"), Some(&*digest.hex()));
        assert_eq!(read.trailer("content-md5"), Some(&*digest.base64()));
        assert_eq!(
            read.trailer("content-digest"),
            Some(&*digest.content_digest())
        );
    }
    assert_eq!(
        layer.placements(),
        Placements {
            trailer: 2,
            ..Placements::default()
        }
    );
}

#[tokio::test]
async fn h1_announces_in_trailers_to_a_client_that_reads_them() {
    let body = noise(300);
    for tells_end in [false, true] {
        let inner = if tells_end {
            paced(&body).tells_end()
        } else {
            paced(&body)
        };
        let inner = response(
            inner.with_true_size(),
            &[("content-length", "300"), ("trailer", "x-inner")],
        );
        let out: Out = pass(&DigestLayer::md5(), get_te(), inner);
        assert_eq!(header(&out, "content-length"), None);
        let named: Vec<_> = out.headers().get_all(header::TRAILER).iter().collect();
        assert_eq!(named, ["x-inner", "content-digest, x-content-md5"]);
        assert_eq!(
            out.body().size_hint().exact(),
            None,
            "it would become a Content-Length"
        );
        assert_eq!(out.body().size_hint().lower(), 300);
        let read = read(out.into_body(), None).await;
        assert_eq!(read.data, body);
        assert_eq!(read.trailer("x-content-md5"), Some(&*md5_hex(&body)));
    }
}

#[tokio::test]
async fn where_trailers_do_not_arrive_nothing_changes_on_the_wire() {
    let body = noise(300);
    for version in [Version::HTTP_10, Version::HTTP_11] {
        let (layer, sent) = recording(DigestLayer::md5());
        let inner = response(paced(&body).with_true_size(), &[("content-length", "300")]);
        let mut out: Out = pass(&layer, get(version), inner);
        let handle = out
            .extensions_mut()
            .remove::<crate::DigestHandle<Sent>>()
            .unwrap();
        assert_eq!(out.headers().len(), 1);
        assert_eq!(out.body().size_hint().exact(), Some(300));
        assert!(handle.get().is_none());
        let read = read(out.into_body(), Some(300)).await;
        assert_eq!(read.data, body);
        assert!(read.trailers.is_empty());
        for sent in [&sent.lock()[0], handle.get().unwrap()] {
            assert_eq!(sent.digest, Some(DigestValue::of::<Md5>(&body)));
            assert_eq!(sent.placement, Placement::Unannounced);
        }
        assert_eq!(
            layer.placements(),
            Placements {
                unannounced: 1,
                ..Placements::default()
            }
        );
    }
}

#[tokio::test]
async fn trailers_of_the_body_are_kept() {
    let digest = md5_hex(b"message");
    for body in [
        MockBody::new([data("message"), pending(), trailer("grpc-status", "0")]),
        MockBody::new([pending(), data("message"), trailer("grpc-status", "0")]).tells_end(),
    ] {
        let out: Out = pass(
            &DigestLayer::md5(),
            get(Version::HTTP_2),
            response(body, &[]),
        );
        let read = read(out.into_body(), None).await;
        assert_eq!(
            (read.trailer("grpc-status"), read.trailer("x-content-md5")),
            (Some("0"), Some(&*digest))
        );
    }
    let mut unsure = SizeHint::new();
    unsure.set_upper(7);
    let ready =
        MockBody::new([data("message"), trailer("grpc-status", "0")]).with_size_hint(unsure);
    let out: Out = pass(
        &DigestLayer::md5(),
        get(Version::HTTP_11),
        response(ready, &[]),
    );
    assert_eq!(header(&out, "x-content-md5"), Some(&*digest));
    assert_eq!(
        out.body().size_hint().exact(),
        None,
        "or an h1 server would drop the trailers"
    );
    assert_eq!(
        read(out.into_body(), None).await.trailer("grpc-status"),
        Some("0")
    );
}

#[tokio::test]
async fn trailers_that_are_there_end_the_look_ahead() {
    let body = MockBody::new([data("message"), trailer("grpc-status", "0"), mock::hang()]);
    let out: Out = pass(
        &DigestLayer::md5(),
        get(Version::HTTP_2),
        response(body, &[]),
    );
    assert_eq!(header(&out, "x-content-md5"), Some(&*md5_hex(b"message")));
    assert_eq!(
        read(out.into_body(), None).await.trailer("grpc-status"),
        Some("0")
    );
}

/// An h2 client may reset the stream after all data, before the trailers.
#[tokio::test]
async fn trailers_that_nobody_took_are_not_counted() {
    let (layer, sent) = recording(DigestLayer::md5());
    let inner = response(
        MockBody::new([pending(), data("all")]),
        &[("content-length", "3")],
    );
    let out: Out = pass(&layer, get(Version::HTTP_2), inner);
    let read = read(out.into_body(), Some(3)).await;
    assert_eq!(read.data, b"all");
    assert_eq!(sent.lock()[0].placement, Placement::Unannounced);
    assert_eq!(sent.lock()[0].digest, Some(DigestValue::of::<Md5>("all")));
}
