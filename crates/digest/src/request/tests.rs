use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_stream_core::{
    Cause, FaultKind,
    mock::{MockBody, data, error, pending, trailer},
};

use crate::{
    DigestHandle, OnBadPromise, Unverifiable, Verdict, Verification, VerifyBody,
    VerifyRequestDigestLayer, testing::md5_hex,
};

type Upload = Request<VerifyBody<MockBody>>;

fn upload(body: MockBody, headers: &[(&str, &str)]) -> Request<MockBody> {
    let head = Request::put("/upload").version(Version::HTTP_11);
    headers
        .iter()
        .fold(head, |head, (name, value)| head.header(*name, *value))
        .body(body)
        .unwrap()
}

/// What the handler read of the upload, and the response.
#[derive(Debug)]
struct Seen {
    read: Option<Result<Bytes, BoxError>>,
    status: StatusCode,
    answer: String,
    outcomes: Vec<Verification>,
    handle: Option<DigestHandle<Verification>>,
}

async fn send(
    layer: VerifyRequestDigestLayer,
    request: Request<MockBody>,
    handler_fails: bool,
) -> Seen {
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&outcomes);
    let seen = Arc::new(Mutex::new((None, None)));
    let see = Arc::clone(&seen);
    let handler = service_fn(move |request: Upload| {
        let see = Arc::clone(&see);
        async move {
            see.lock().1 = request
                .extensions()
                .get::<DigestHandle<Verification>>()
                .cloned();
            let read = request
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes());
            let failed = read.is_err();
            see.lock().0 = Some(read);
            if failed && handler_fails {
                return Err(BoxError::from("handler"));
            }
            Ok(Response::new(Full::new(Bytes::from("stored"))))
        }
    });
    let layer = layer.on_outcome(move |outcome| into.lock().push(outcome.clone()));
    let response = ServiceBuilder::new()
        .layer(layer)
        .service(handler)
        .oneshot(request)
        .await
        .unwrap();
    let status = response.status();
    let answer = response.into_body().collect().await.unwrap().to_bytes();
    let (read, handle) = std::mem::take(&mut *seen.lock());
    let outcomes = std::mem::take(&mut *outcomes.lock());
    Seen {
        read,
        status,
        answer: String::from_utf8(answer.to_vec()).unwrap(),
        outcomes,
        handle,
    }
}

#[tokio::test]
async fn a_good_upload_is_stored() {
    for body in [
        MockBody::new([data("go"), data("od")]),
        MockBody::new([pending(), data("good")])
            .tells_end()
            .with_true_size(),
    ] {
        let seen = send(
            VerifyRequestDigestLayer::md5(),
            upload(body, &[("x-content-md5", &md5_hex(b"good"))]),
            true,
        )
        .await;
        assert_eq!(seen.read.unwrap().unwrap(), "good");
        assert_eq!((seen.status, &*seen.answer), (StatusCode::OK, "stored"));
        assert_eq!(seen.outcomes.len(), 1);
        assert_eq!(
            seen.handle.unwrap().get().unwrap().verdict,
            Verdict::Verified
        );
    }
}

#[tokio::test]
async fn a_corrupt_upload_is_a_body_error_and_a_400() {
    let promise = md5_hex(b"good");
    for length in [&[][..], &[("content-length", "4")]] {
        for handler_fails in [true, false] {
            let head = [&[("x-content-md5", &*promise)], length].concat();
            let body = MockBody::new([data("ev"), data("il")]);
            let seen = send(
                VerifyRequestDigestLayer::md5(),
                upload(body, &head),
                handler_fails,
            )
            .await;
            let error = seen.read.unwrap().unwrap_err();
            assert_eq!(Cause::of(&*error).kind(), FaultKind::DigestMismatch);
            assert_eq!(seen.status, StatusCode::BAD_REQUEST);
            assert!(
                seen.answer.contains(r#""title":"BadDigest""#),
                "{}",
                seen.answer
            );
            assert!(seen.answer.contains(&promise), "{}", seen.answer);
            assert_eq!(seen.outcomes[0].verdict, Verdict::Mismatch);
            assert_eq!(seen.outcomes.len(), 1);
        }
    }
}

#[tokio::test]
async fn an_empty_upload_is_judged_before_the_handler_runs() {
    let empty = || MockBody::new([]).tells_end();
    let seen = send(
        VerifyRequestDigestLayer::md5(),
        upload(empty(), &[("x-content-md5", &md5_hex(b""))]),
        true,
    )
    .await;
    assert_eq!(
        (seen.status, seen.outcomes[0].verdict),
        (StatusCode::OK, Verdict::Verified)
    );
    let seen = send(
        VerifyRequestDigestLayer::md5(),
        upload(empty(), &[("x-content-md5", &md5_hex(b"not"))]),
        true,
    )
    .await;
    assert_eq!(
        (seen.status, seen.outcomes[0].verdict),
        (StatusCode::BAD_REQUEST, Verdict::Mismatch)
    );
    assert!(seen.read.is_none(), "the handler was not called");
}

#[tokio::test]
async fn a_digest_in_the_trailers_of_an_upload() {
    for (tail, verdict) in [("good", Verdict::Verified), ("other", Verdict::Mismatch)] {
        let body = MockBody::new([
            data("good"),
            trailer("x-content-md5", &md5_hex(tail.as_bytes())),
        ]);
        let seen = send(
            VerifyRequestDigestLayer::md5(),
            upload(body, &[("trailer", "x-content-md5")]),
            true,
        )
        .await;
        assert_eq!(seen.outcomes[0].verdict, verdict);
        assert_eq!(seen.status == StatusCode::OK, verdict == Verdict::Verified);
    }
}

#[tokio::test]
async fn what_is_not_a_matter_of_digests_stays_as_it_is() {
    // No declared digest.
    let seen = send(
        VerifyRequestDigestLayer::md5(),
        upload(MockBody::new([data("any")]), &[]),
        true,
    )
    .await;
    assert_eq!((seen.status, seen.outcomes.len()), (StatusCode::OK, 0));
    assert!(seen.handle.is_none());
    // The layer is off.
    let seen = send(
        VerifyRequestDigestLayer::off(),
        upload(MockBody::new([data("any")]), &[("x-content-md5", "?")]),
        true,
    )
    .await;
    assert_eq!((seen.status, seen.outcomes.len()), (StatusCode::OK, 0));
    // The client disconnects.
    let body = MockBody::new([data("half"), error("connection reset")]);
    let seen = send(
        VerifyRequestDigestLayer::md5(),
        upload(body, &[("x-content-md5", &md5_hex(b"whole"))]),
        false,
    )
    .await;
    assert_eq!(
        (seen.status, seen.outcomes[0].verdict),
        (StatusCode::OK, Verdict::Aborted)
    );
    assert_eq!(
        seen.read.unwrap().unwrap_err().to_string(),
        "connection reset"
    );
}

#[tokio::test]
async fn a_promise_that_cannot_be_read() {
    for (policy, status) in [
        (OnBadPromise::Ignore, 200),
        (OnBadPromise::Warn, 200),
        (OnBadPromise::Refuse, 400),
    ] {
        let layer = VerifyRequestDigestLayer::md5().on_bad_promise(policy);
        let seen = send(
            layer,
            upload(MockBody::new([data("any")]), &[("content-md5", "?")]),
            true,
        )
        .await;
        assert_eq!(seen.status, status, "{policy:?}");
        assert_eq!(seen.read.is_none(), status == 400);
        assert_eq!(
            seen.outcomes[0].verdict,
            Verdict::Unverifiable(Unverifiable::Malformed)
        );
        assert_eq!(seen.answer.contains("InvalidDigest"), status == 400);
    }
}

#[tokio::test]
async fn by_default_a_promise_that_cannot_be_read_is_a_400() {
    for head in [
        ("content-md5", "garbage"),
        ("content-digest", "md5=(:AA==:)"),
        ("content-digest", "sha-256=!, md5=:AA==:"),
    ] {
        let request = upload(MockBody::new([data("any")]), &[head]);
        let seen = send(VerifyRequestDigestLayer::md5(), request, true).await;
        assert_eq!(seen.status, StatusCode::BAD_REQUEST, "{head:?}");
        assert!(seen.answer.contains("InvalidDigest"), "{}", seen.answer);
        assert!(seen.read.is_none(), "the handler was not called");
    }
}

#[tokio::test]
async fn a_foreign_member_hides_no_mismatch() {
    let wrong = md5_hex(b"other");
    for digests in [
        "",
        "sha-256=:AA==:;note=\"a,b\"",
        "flag, (1 2)",
        "sha-256=!",
    ] {
        let head = [("content-digest", digests), ("x-content-md5", &*wrong)];
        let request = upload(MockBody::new([data("any")]), &head);
        let seen = send(VerifyRequestDigestLayer::md5(), request, true).await;
        assert_eq!(seen.status, StatusCode::BAD_REQUEST, "{digests}");
        assert_eq!(seen.outcomes[0].verdict, Verdict::Mismatch, "{digests}");
    }
}
