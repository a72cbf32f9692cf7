use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Response, StatusCode, Version, header};
use http_body::{Body, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tower_stream_body::{
    Cause, Fault, FaultKind, Promise, StreamEnd,
    mock::{self, MockBody, data, error, pending, trailer},
};

use crate::{
    Announce, DigestBody, DigestLayer, DigestValue, Md5, Placement, Placements, Segments, Sent,
    replay::SLICE,
    testing::{get, get_te, md5_hex, noise, pass, read, response},
};

type Out = Response<DigestBody<MockBody, Md5>>;

/// A layer, and what it reports.
fn recording(layer: DigestLayer<Md5>) -> (DigestLayer<Md5>, Arc<Mutex<Vec<Sent>>>) {
    let all = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&all);
    (
        layer.on_sent(move |sent| into.lock().push(sent.clone())),
        all,
    )
}

fn header<'a>(response: &'a Out, name: &str) -> Option<&'a str> {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
}

/// A body that is pending after its first byte.
fn paced(body: &Bytes) -> MockBody {
    MockBody::new([data(body.slice(..1)), pending(), data(body.slice(1..))])
}

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
        .announce(Announce::ContentDigest | Announce::XContentMd5 | Announce::ContentMd5);
    for version in [Version::HTTP_2, Version::HTTP_3] {
        let inner = response(paced(&body).with_true_size(), &[("content-length", "300")]);
        let out: Out = pass(&layer, get(version), inner);
        assert_eq!(header(&out, "content-length"), Some("300"));
        assert_eq!(header(&out, "trailer"), None);
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
        let later = out.extensions_mut().remove::<crate::Later<Sent>>().unwrap();
        assert_eq!(out.headers().len(), 1);
        assert_eq!(out.body().size_hint().exact(), Some(300));
        assert!(later.get().is_none());
        let read = read(out.into_body(), Some(300)).await;
        assert_eq!(read.data, body);
        assert!(read.trailers.is_empty());
        for sent in [&sent.lock()[0], later.get().unwrap()] {
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
async fn what_cannot_be_announced_need_not_be_hashed() {
    let (layer, sent) = recording(DigestLayer::md5().hash_unannounced(false));
    let out: Out = pass(
        &layer,
        get(Version::HTTP_11),
        response(paced(&noise(9)), &[]),
    );
    assert_eq!(read(out.into_body(), None).await.data.len(), 9);
    assert_eq!(sent.lock()[0].digest, None);
    assert_eq!(sent.lock()[0].end, StreamEnd::Complete);
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
        .insert(Promise::new("md5", [0; 16], &http::HeaderMap::new()));
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
            .insert(Promise::new("md5", [0; 16], &headers));
        let out: Out = pass(&DigestLayer::md5(), get(Version::HTTP_11), inner);
        assert_eq!(header(&out, "x-content-md5"), Some(&**expected), "{coding}");
    }
}

/// The representation is what the content coding made of it; a digest beside it does not change it.
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
            .insert(Promise::new("md5", [0; 16], &headers));
        let layer = DigestLayer::md5().overwrite(true);
        let out: Out = pass(&layer, get(Version::HTTP_11), inner);
        assert_eq!(header(&out, "repr-digest").is_some(), stays, "{coding}");
        assert!(header(&out, "content-digest").is_some());
    }
}

#[tokio::test]
async fn a_body_that_does_not_end_well_has_no_digest() {
    type IsEnd = fn(&StreamEnd) -> bool;
    let ends: [(&str, Vec<mock::Step>, IsEnd); 4] = [
        (
            "failed",
            vec![pending(), data("x"), error("broken")],
            |end| matches!(end, StreamEnd::Failed(_)),
        ),
        ("failed, ready", vec![data("x"), error("broken")], |end| {
            matches!(end, StreamEnd::Failed(_))
        }),
        (
            "panicked",
            vec![pending(), data("x"), mock::panic("boom")],
            |end| *end == StreamEnd::Panicked,
        ),
        ("dropped", vec![data("x"), mock::hang()], |end| {
            *end == StreamEnd::Dropped
        }),
    ];
    for (name, steps, is_end) in ends {
        let (layer, sent) = recording(DigestLayer::md5().segments(1));
        let out: Out = pass(
            &layer,
            get(Version::HTTP_2),
            response(MockBody::new(steps), &[]),
        );
        assert!(out.headers().is_empty(), "{name}");
        let reading = tokio::time::timeout(Duration::from_millis(1), read(out.into_body(), None));
        let read = AssertUnwindSafe(reading).catch_unwind().await;
        if let Ok(Ok(read)) = read {
            assert_eq!(
                read.error.unwrap().to_string(),
                "broken",
                "{name}: the body's own error"
            );
            assert!(read.trailers.is_empty());
        }
        let sent = sent.lock();
        let [sent] = &sent[..] else {
            panic!("{name}: {sent:?}")
        };
        assert!(is_end(&sent.end), "{name}: {:?}", sent.end);
        assert_eq!(
            (sent.digest, &sent.segments, sent.placement),
            (None, &None, Placement::Unannounced),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_panic_while_looking_ahead_is_reported() {
    let (layer, sent) = recording(DigestLayer::md5());
    let body = MockBody::new([data("x"), mock::panic("boom")]);
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| -> Out {
        pass(&layer, get(Version::HTTP_2), response(body, &[]))
    }));
    assert!(panicked.is_err());
    assert_eq!(sent.lock()[0].end, StreamEnd::Panicked);
}

/// An error writer inside has ended the stream well, with an error record: that is not what was asked for.
#[tokio::test]
async fn a_faulted_body_has_no_digest() {
    for paced in [false, true] {
        let steps = [data("half"), data("error record")];
        let body = if paced {
            MockBody::new([pending()].into_iter().chain(steps))
        } else {
            MockBody::new(steps)
        };
        let (layer, sent) = recording(DigestLayer::md5());
        let fault = Fault::new();
        fault.record(Cause::new(FaultKind::Io, "disk"));
        let mut inner = response(body, &[]);
        inner.extensions_mut().insert(fault);
        let out: Out = pass(&layer, get(Version::HTTP_2), inner);
        assert!(out.headers().is_empty());
        let read = read(out.into_body(), None).await;
        assert!(read.error.is_none() && read.trailers.is_empty());
        assert_eq!(sent.lock()[0].digest, None);
    }
}

#[tokio::test]
async fn a_wrong_length_is_announced_nowhere_and_never_looks_whole() {
    for declared in ["5", "7"] {
        for ready in [true, false] {
            let steps = [data("six"), data("byt")];
            let body = || {
                if ready {
                    MockBody::new(steps_of(&steps))
                } else {
                    MockBody::new([pending()].into_iter().chain(steps_of(&steps)))
                }
            };
            for request in [get(Version::HTTP_11), get_te(), get(Version::HTTP_2)] {
                let (layer, sent) = recording(DigestLayer::md5());
                let chunked = request.headers().contains_key("te") && !ready;
                let out: Out = pass(
                    &layer,
                    request,
                    response(body(), &[("content-length", declared)]),
                );
                assert_eq!(header(&out, "x-content-md5"), None);
                assert_eq!(header(&out, "content-length").is_none(), chunked);
                let read = read(out.into_body(), None).await;
                assert_eq!(read.trailers.len(), 0);
                assert_eq!(read.error.is_some(), chunked, "nobody else would notice");
                assert_eq!(sent.lock()[0].digest, None);
            }
        }
    }
}

fn steps_of(steps: &[mock::Step]) -> Vec<mock::Step> {
    let copy = |step: &mock::Step| match step {
        mock::Step::Data(bytes) => data(bytes.clone()),
        other => panic!("{other:?}"),
    };
    steps.iter().map(copy).collect()
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
        let (layer, sent) = recording(DigestLayer::md5());
        let mut request = get(Version::HTTP_11);
        *request.method_mut() = method;
        let body = MockBody::new([data("never sent")]).with_true_size();
        let probe = body.probe();
        let mut inner = response(body, &[("content-length", "10")]);
        *inner.status_mut() = StatusCode::from_u16(status).unwrap();
        let out: Out = pass(&layer, request, inner);
        assert_eq!(out.headers().len(), 1);
        assert_eq!(out.body().size_hint().exact(), Some(10));
        drop(out);
        assert_eq!((probe.polls(), sent.lock().len()), (0, 0));
    }
}

#[tokio::test]
async fn off_is_the_same_type_and_does_nothing() {
    let body = MockBody::new([data("x")]).with_true_size();
    let probe = body.probe();
    let out: Out = pass(
        &DigestLayer::off(),
        get(Version::HTTP_2),
        response(body, &[]),
    );
    assert!(out.headers().is_empty() && out.extensions().is_empty());
    assert_eq!(out.body().size_hint().exact(), Some(1));
    assert_eq!(probe.polls(), 0);
    assert_eq!(read(out.into_body(), None).await.data, b"x");
}

#[tokio::test]
async fn a_head_may_be_left_alone() {
    let layer = DigestLayer::md5().only_if(|head| head.headers.contains_key("wanted"));
    for (headers, announced) in [(&[][..], false), (&[("wanted", "")], true)] {
        let inner = response(MockBody::new([data("x")]), headers);
        let out: Out = pass(&layer, get(Version::HTTP_2), inner);
        assert_eq!(header(&out, "x-content-md5").is_some(), announced);
    }
}

#[tokio::test]
async fn nothing_to_announce_and_nobody_to_tell_costs_nothing() {
    let body = MockBody::new([data("x")]);
    let probe = body.probe();
    let inner = response(body, &[("content-digest", "md5=:0:")]);
    let layer = DigestLayer::md5().announce(Announce::ContentDigest);
    drop::<Out>(pass(&layer, get(Version::HTTP_2), inner));
    assert_eq!(probe.polls(), 0);
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
    let announced = |layer: &DigestLayer<Md5>, want: &str| {
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

    let layer = DigestLayer::<sha2::Sha256>::new();
    let inner = response(MockBody::new([data("hello")]), &[]);
    let out: Response<DigestBody<MockBody, sha2::Sha256>> = pass(&layer, wanting("md5=1"), inner);
    let announced = out.headers()["content-digest"].to_str().unwrap();
    assert_eq!(Some(announced.to_owned()), md5);
}

#[tokio::test]
async fn long_frames_are_handed_out_in_slices_that_are_not_copied() {
    let long = noise(3 * SLICE + 5);
    let body = MockBody::new([pending(), data(long.clone()), data("end")]);
    let out: Out = pass(
        &DigestLayer::md5(),
        get(Version::HTTP_2),
        response(body, &[]),
    );
    let mut body = out.into_body();
    let mut seen = 0;
    for expected in [SLICE, SLICE, SLICE, 5] {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.len(), expected);
        assert_eq!(frame.as_ptr(), long[seen..].as_ptr());
        seen += frame.len();
    }
    let rest = read(body, None).await;
    assert_eq!(rest.data, b"end");
    let whole = [&long, &b"end"[..]].concat();
    assert_eq!(rest.trailer("x-content-md5"), Some(&*md5_hex(&whole)));
}

#[tokio::test]
async fn segments_come_with_the_digest() {
    let body = noise(1000);
    for paced_by in [1, 7, 100, 1000] {
        let (layer, sent) = recording(DigestLayer::md5().segments(100));
        let frames = (0..1000)
            .step_by(paced_by)
            .map(|at| data(body.slice(at..(at + paced_by).min(1000))));
        let steps: Vec<_> = [pending()].into_iter().chain(frames).collect();
        let out: Out = pass(
            &layer,
            get(Version::HTTP_11),
            response(MockBody::new(steps), &[]),
        );
        read(out.into_body(), None).await;
        let sent = sent.lock();
        assert_eq!(sent[0].segments, Some(Segments::of::<md5::Md5>(100, &body)));
        assert_eq!(sent[0].digest, Some(DigestValue::of::<Md5>(&body)));
    }
}

#[tokio::test]
async fn segments_are_announced_when_asked_for() {
    let body = noise(250);
    let expected = Segments::of::<Md5>(100, &body).field_value().unwrap();
    for (layer, announced) in [
        (DigestLayer::md5().segments(100), false),
        (
            DigestLayer::md5().segments(100).announce_segments(true),
            true,
        ),
        (DigestLayer::md5().announce_segments(true), false),
    ] {
        let ready = response(MockBody::new([data(body.clone())]), &[]);
        let out: Out = pass(&layer, get(Version::HTTP_11), ready);
        assert_eq!(
            out.headers().get("x-segment-digest"),
            announced.then_some(&expected)
        );

        let (layer, sent) = recording(layer);
        let out: Out = pass(&layer, get_te(), response(paced(&body), &[]));
        let named = out
            .headers()
            .get_all("trailer")
            .iter()
            .any(|name| name == "x-segment-digest");
        assert!(named || !announced);
        let read = read(out.into_body(), None).await;
        assert_eq!(
            read.trailers.get("x-segment-digest"),
            announced.then_some(&expected)
        );
        assert_eq!(read.trailer("x-content-md5"), Some(&*md5_hex(&body)));
        assert!(sent.lock()[0].segments.is_some() || !announced);
    }
}

/// An h2 server polls on after the declared length, and may learn of an error.
#[tokio::test]
async fn an_error_after_the_last_data_frame_is_no_success() {
    let (layer, sent) = recording(DigestLayer::md5());
    let body = MockBody::new([pending(), data("all"), error("late")]);
    let out: Out = pass(
        &layer,
        get(Version::HTTP_2),
        response(body, &[("content-length", "3")]),
    );
    let read = read(out.into_body(), None).await;
    assert_eq!(read.error.unwrap().to_string(), "late");
    assert!(read.trailers.is_empty());
    assert_eq!(sent.lock()[0].digest, None);
}

#[tokio::test]
async fn a_callback_that_panics_harms_nobody() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let layer = DigestLayer::md5().on_sent(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        panic!("in the callback")
    });
    let out: Out = pass(
        &layer,
        get(Version::HTTP_2),
        response(paced(&noise(9)), &[]),
    );
    assert!(read(out.into_body(), None).await.error.is_none());
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

/// 64 frames of 16 MiB, through both layers' slices.
#[tokio::test]
async fn a_gibibyte_in_long_frames() {
    let frame = noise(16 * 1024 * 1024);
    let mut expected = <md5::Md5 as digest::Digest>::new();
    (0..64).for_each(|_| digest::Digest::update(&mut expected, &frame));
    let expected = hex::encode(digest::Digest::finalize(expected));

    let steps = [pending()]
        .into_iter()
        .chain((0..64).map(|_| data(frame.clone())));
    let inner = response(MockBody::new(steps), &[]);
    let out: Out = pass(&DigestLayer::md5(), get(Version::HTTP_2), inner);
    let mut body = out.into_body();
    let mut bytes = 0;
    loop {
        match body.frame().await.unwrap().unwrap().into_data() {
            Ok(data) => {
                assert!(data.len() <= SLICE);
                bytes += data.len();
            }
            Err(last) => {
                assert_eq!(last.trailers_ref().unwrap()["x-content-md5"], *expected);
                break;
            }
        }
    }
    assert_eq!(bytes, 1 << 30);
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

/// The client of an h2 stream may leave with all the data and without the trailers.
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

#[tokio::test]
async fn a_body_that_failed_at_once_keeps_its_framing() {
    let inner = response(
        MockBody::new([data("x"), error("broken")]),
        &[("content-length", "9")],
    );
    let out: Out = pass(&DigestLayer::md5(), get_te(), inner);
    assert_eq!(
        (header(&out, "content-length"), header(&out, "trailer")),
        (Some("9"), None)
    );
    assert!(read(out.into_body(), Some(9)).await.error.is_some());
}
