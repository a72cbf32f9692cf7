//! Responses that the layer does not touch.

use super::*;

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
    let layer = DigestLayer::md5().announce(Announce::CONTENT_DIGEST);
    drop::<Out>(pass(&layer, get(Version::HTTP_2), inner));
    assert_eq!(probe.polls(), 0);
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
