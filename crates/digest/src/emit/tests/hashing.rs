//! Long bodies, and segments.

use super::*;

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

/// 64 frames of 16 MiB, through the slices of both layers.
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

/// Segments are compared with stored ones, which are by the layer's algorithm.
#[cfg(feature = "sha2")]
#[tokio::test]
async fn segments_are_by_the_layers_algorithm_whatever_the_client_wants() {
    let body = noise(1000);
    for pace in [false, true] {
        let (layer, sent) = recording(DigestLayer::md5().segments(100));
        let mut request = get_te();
        let wish = "sha-256=1".parse().unwrap();
        request.headers_mut().insert("want-content-digest", wish);
        let inner = match pace {
            true => paced(&body),
            false => MockBody::new([data(body.clone())]),
        };
        let out: Out = pass(&layer, request, response(inner, &[]));
        read(out.into_body(), None).await;
        let sent = sent.lock();
        assert_eq!(sent[0].segments, Some(Segments::of::<Md5>(100, &body)));
        let whole = DigestValue::of::<crate::Sha256>(&body);
        assert_eq!(sent[0].digest, Some(whole));
    }
}
