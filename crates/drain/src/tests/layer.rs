use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use http::{HeaderMap, Method, StatusCode, Version, header};
use tokio::time::sleep;
use tower_layer::Layer;
use tower_stream_core::{Exchange, FaultKind, mock};

use super::*;
use crate::{DrainLayer, DrainToken, Draining, Refusal};

fn ok(body: MockBody) -> Response<MockBody> {
    Response::new(body)
}

fn two_records() -> MockBody {
    MockBody::new([mock::data("a"), mock::sleep(SECOND), mock::data("b")])
}

#[tokio::test(start_paused = true)]
async fn a_request_counts_from_its_call_to_the_drop_of_its_body() {
    let drain = drain();
    let app = drain.layer().layer(service(|_| async {
        sleep(SECOND).await;
        ok(two_records())
    }));
    assert_eq!(drain.in_flight(), 0);
    let future = app.clone().oneshot(get("/"));
    assert_eq!(drain.in_flight(), 0, "not called yet");
    let task = tokio::spawn(future);
    sleep(500 * MS).await;
    assert_eq!(drain.in_flight(), 1);
    let response = task.await.unwrap().unwrap();
    assert_eq!(drain.in_flight(), 1);
    let mut body = response.into_body();
    while body.frame().await.is_some() {}
    assert_eq!(drain.in_flight(), 1, "read to the end, but not dropped");
    drop(body);
    assert_eq!((drain.in_flight(), drain.stats().served), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn every_way_out_counts_down_once() {
    let drain = drain();
    // The future is dropped before its response.
    let app = drain
        .layer()
        .layer(service(|_| std::future::pending::<Response<MockBody>>()));
    let mut future = Box::pin(app.clone().oneshot(get("/")));
    assert!(future.as_mut().now_or_never().is_none());
    assert_eq!(drain.in_flight(), 1);
    drop(future);
    assert_eq!(drain.in_flight(), 0);
    // The body is never polled, or dropped half way.
    let app = drain
        .layer()
        .layer(service(|_| async { ok(two_records()) }));
    drop(call(&app, get("/")).await);
    let mut body = call(&app, get("/")).await.into_body();
    body.frame().await;
    assert_eq!(drain.in_flight(), 1);
    drop(body);
    assert_eq!(drain.in_flight(), 0);
    // The call, the future or the body panics.
    let panics = drain.layer().layer(tower::service_fn(
        |_: Request<MockBody>| -> std::future::Ready<Result<Response<MockBody>, Infallible>> {
            panic!("in call")
        },
    ));
    let caught = AssertUnwindSafe(call(&panics, get("/")))
        .catch_unwind()
        .await;
    assert!(caught.is_err());
    assert_eq!(drain.in_flight(), 0);
    let panics = drain.layer().layer(service(|_| async {
        sleep(MS).await;
        panic!("in the future");
        #[allow(unreachable_code)]
        ok(two_records())
    }));
    let caught = AssertUnwindSafe(call(&panics, get("/")))
        .catch_unwind()
        .await;
    assert!(caught.is_err());
    assert_eq!(drain.in_flight(), 0);
    let panics = drain.layer().layer(service(|_| async {
        ok(MockBody::new([mock::data("a"), mock::panic("in the body")]))
    }));
    let body = call(&panics, get("/")).await.into_body();
    let caught = AssertUnwindSafe(read(body)).catch_unwind().await;
    assert!(caught.is_err());
    assert_eq!((drain.in_flight(), drain.stats().served), (0, 6));
}

async fn head(
    drain: &Drain,
    request: Request<MockBody>,
    answer: fn() -> Response<MockBody>,
) -> (Version, HeaderMap) {
    let app = drain
        .layer()
        .layer(service(move |_| async move { answer() }));
    let (parts, _) = call(&app, request).await.into_parts();
    (parts.version, parts.headers)
}

#[tokio::test(start_paused = true)]
async fn heads_made_after_the_start_close_their_connection() {
    let drain = drain();
    let request = |version, method: Method| {
        let mut request = get("/");
        *request.version_mut() = version;
        *request.method_mut() = method;
        request
    };
    let plain = || ok(two_records());
    let (_, headers) = head(&drain, request(Version::HTTP_11, Method::GET), plain).await;
    assert!(
        !headers.contains_key(header::CONNECTION),
        "nothing before the start"
    );
    drain.start();
    let (version, headers) = head(&drain, request(Version::HTTP_11, Method::GET), plain).await;
    assert_eq!(
        (version, &headers[header::CONNECTION]),
        (Version::HTTP_11, &"close".parse().unwrap())
    );
    let (version, headers) = head(&drain, request(Version::HTTP_10, Method::GET), plain).await;
    assert_eq!(
        (version, &headers[header::CONNECTION]),
        (Version::HTTP_10, &"close".parse().unwrap())
    );
    let (_, headers) = head(&drain, request(Version::HTTP_2, Method::GET), plain).await;
    assert!(!headers.contains_key(header::CONNECTION));
    let (_, headers) = head(&drain, request(Version::HTTP_11, Method::HEAD), plain).await;
    assert_eq!(headers[header::CONNECTION], "close");
    let (_, headers) = head(&drain, request(Version::HTTP_11, Method::CONNECT), plain).await;
    assert!(!headers.contains_key(header::CONNECTION));
    let upgrade = || {
        let mut response = ok(MockBody::new([]));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
            .headers_mut()
            .insert(header::CONNECTION, "upgrade".parse().unwrap());
        response
    };
    let (_, headers) = head(&drain, request(Version::HTTP_11, Method::GET), upgrade).await;
    assert_eq!(headers[header::CONNECTION], "upgrade");
}

#[tokio::test(start_paused = true)]
async fn the_state_that_counts_for_a_head_is_the_one_when_it_is_made() {
    let drain = drain();
    let app = drain.layer().layer(service(|_| async {
        sleep(SECOND).await;
        ok(two_records())
    }));
    let task = tokio::spawn(app.oneshot(get("/")));
    sleep(500 * MS).await;
    drain.start();
    let response = task.await.unwrap().unwrap();
    assert_eq!(response.headers()[header::CONNECTION], "close");
}

#[tokio::test(start_paused = true)]
async fn from_the_close_on_requests_are_refused() {
    let drain = drain();
    let hold = DrainToken::new(&drain);
    let app = drain
        .layer()
        .layer(service(|_| async { ok(two_records()) }));
    drain.start();
    sleep(500 * MS).await;
    assert_eq!(
        call(&app, get("/")).await.status(),
        200,
        "served while it advertises"
    );
    sleep(SECOND).await;
    let mut waits = std::collections::BTreeSet::new();
    for n in 1..=200 {
        let response = call(&app, get("/")).await;
        assert_eq!(drain.in_flight(), 1, "refused and counted");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::CONNECTION], "close");
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "application/problem+json"
        );
        let wait: u64 = response.headers()[header::RETRY_AFTER]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        waits.insert(wait);
        assert_eq!(drain.stats().refused, n);
        let size = response.body().size_hint().exact();
        let (text, error) = read(response.into_body()).await;
        assert_eq!((size, error), (Some(text.len() as u64), None));
        assert!(text.contains("\"status\":503"), "{text}");
    }
    assert!(
        waits.len() > 2 && waits.iter().all(|wait| (1..=5).contains(wait)),
        "{waits:?}"
    );
    assert_eq!(drain.stats().served, 1);
    drop(hold);
}

#[tokio::test(start_paused = true)]
async fn a_client_of_serve_that_could_not_know_is_served_for_a_while() {
    let drain = drain();
    let hold = DrainToken::new(&drain);
    let app = drain
        .layer()
        .layer(service(|_| async { ok(two_records()) }));
    drain.shared.server_begins();
    drain.start();
    // The close is at 1 s and the deadline at 5 s: a quarter of the time between them.
    for (wait, status) in [(1100 * MS, 200), (800 * MS, 200), (200 * MS, 503)] {
        sleep(wait).await;
        let response = call(&app, get("/")).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()[header::CONNECTION], "close");
    }
    assert_eq!((drain.in_flight(), drain.stats().refused), (1, 1));
    drop(hold);
}

#[tokio::test(start_paused = true)]
async fn probes_and_chosen_requests_are_never_refused() {
    let drain = Drain::builder()
        .advertise(SECOND)
        .deadline(5 * SECOND)
        .exempt("/status")
        .exempt_if(|head| head.headers.contains_key("x-last-call"))
        .build();
    let hold = DrainToken::new(&drain);
    let app = drain
        .layer()
        .layer(service(|_| async { ok(two_records()) }));
    drain.start();
    sleep(2 * SECOND).await;
    for path in ["/livez", "/readyz", "/status"] {
        let response = call(&app, get(path)).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(drain.in_flight(), 2, "exempt, but counted");
    }
    let mut request = get("/");
    request
        .headers_mut()
        .insert("x-last-call", "1".parse().unwrap());
    assert_eq!(call(&app, request).await.status(), 200);
    assert_eq!(call(&app, get("/livez/no")).await.status(), 503);
    assert_eq!(drain.in_flight(), 1);
    drop(hold);
}

/// The response of a closed drain over this HTTP version, and the recorded cause.
async fn refuse(
    refusal: Refusal,
    version: Version,
) -> (Response<ResponseBody<MockBody, DrainLayer>>, Exchange) {
    let drain = Drain::builder()
        .advertise(MS)
        .deadline(SECOND)
        .refuse_with(refusal)
        .build();
    let _hold = DrainToken::new(&drain);
    let app = drain
        .layer()
        .layer(service(|_| async { ok(two_records()) }));
    drain.start();
    sleep(10 * MS).await;
    let mut request = get("/");
    *request.version_mut() = version;
    let fault = Exchange::of(request.extensions_mut());
    (call(&app, request).await, fault)
}

#[tokio::test(start_paused = true)]
async fn a_refusal_may_be_a_429_or_a_reset_that_allows_a_retry() {
    let refused = |refusal, version| async move {
        let (response, _) = refuse(refusal, version).await;
        let status = response.status().as_u16();
        let close = response.headers().contains_key(header::CONNECTION);
        (status, close, read(response.into_body()).await.1.is_some())
    };
    let (h1, h2) = (Version::HTTP_11, Version::HTTP_2);
    assert_eq!(refused(Refusal::Unavailable, h2).await, (503, false, false));
    assert_eq!(
        refused(Refusal::TooManyRequests, h1).await,
        (429, true, false)
    );
    assert_eq!(
        refused(Refusal::RefusedStream, h1).await,
        (503, true, false)
    );
    assert_eq!(
        refused(Refusal::RefusedStream, h2).await,
        (503, false, true)
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_refused_has_not_failed() {
    let (response, fault) = refuse(Refusal::RefusedStream, Version::HTTP_2).await;
    assert!(read(response.into_body()).await.1.is_some(), "a reset");
    assert_eq!(fault.cause().unwrap().kind(), FaultKind::Drain);
}

/// Over HTTP/2, hyper sends the body of a response to HEAD, which is a protocol error.
#[tokio::test(start_paused = true)]
async fn head_is_refused_and_probed_without_a_body() {
    let drain = drain();
    let _hold = DrainToken::new(&drain);
    let app = drain
        .layer()
        .layer(service(|_| async { ok(two_records()) }));
    drain.start();
    sleep(2 * SECOND).await;
    let head = || {
        let mut request = get("/");
        *request.method_mut() = Method::HEAD;
        request
    };
    let response = call(&app, head()).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let length = response.headers()[header::CONTENT_LENGTH].to_str().unwrap();
    assert!(length.parse::<u64>().unwrap() > 0, "of what GET would get");
    assert!(response.body().is_end_stream());
    assert_eq!(read(response.into_body()).await, (String::new(), None));

    let response = call(&drain.liveness(), head()).await;
    assert_eq!(response.headers()[header::CONTENT_LENGTH], "17");
    assert!(response.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn two_layers_of_one_drain_count_once_and_two_drains_count_each() {
    let (one, two) = (drain(), drain());
    let inner = service(|_| async { ok(two_records()) });
    let app = one.layer().layer(
        one.layer()
            .layer(two.layer().layer(two.layer().layer(inner))),
    );
    let body = call(&app, get("/")).await.into_body();
    assert_eq!((one.in_flight(), two.in_flight()), (1, 1));
    drop(body);
    assert_eq!((one.in_flight(), two.in_flight()), (0, 0));
    assert_eq!((one.stats().served, two.stats().served), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_nested_router_counts_and_has_its_own_paths() {
    use axum::{Router, routing};
    let drain = Drain::builder()
        .advertise(MS)
        .deadline(SECOND)
        .exempt("/ping")
        .build();
    let hold = DrainToken::new(&drain);
    let inner = Router::new()
        .route("/ping", routing::get(|| async { "pong" }))
        .layer(drain.layer());
    let app = Router::new().nest("/v1", inner).layer(DrainLayer::off());
    let ask = |path: &str| {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        app.clone()
            .oneshot(request)
            .map(|answer| answer.unwrap().status().as_u16())
    };
    assert_eq!(ask("/v1/ping").await, 200);
    assert_eq!((drain.in_flight(), drain.stats().served), (1, 1));
    drain.start();
    sleep(10 * MS).await;
    assert_eq!(
        ask("/v1/ping").await,
        200,
        "exempt by what is left of its path"
    );
    drop(hold);
}

#[tokio::test(start_paused = true)]
async fn a_token_holds_the_drain_after_its_request_and_a_cloned_request_does_not() {
    let drain = drain();
    let (tokens, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let app = drain
        .layer()
        .layer(service(move |request: Request<MockBody>| {
            let copy = request.extensions().clone();
            let token = DrainToken::of(&copy).expect("counted");
            tokens.send((copy, token)).unwrap();
            async { ok(MockBody::new([])) }
        }));
    drop(call(&app, get("/")).await);
    let (copy, token) = taken.recv().await.unwrap();
    assert_eq!(drain.in_flight(), 1, "held by the token alone");
    drop(token);
    assert_eq!(drain.in_flight(), 0, "extensions hold nothing");
    drop(copy);
}

#[tokio::test(start_paused = true)]
async fn a_handler_learns_that_it_should_stop() {
    let drain = drain();
    let app = drain
        .layer()
        .layer(service(|request: Request<MockBody>| async move {
            let draining = Draining::of(request.extensions()).expect("counted");
            assert!(!draining.is_draining() && draining.deadline().is_none());
            draining.started().await;
            ok(MockBody::new([mock::data(draining.state().as_str())]))
        }));
    let task = tokio::spawn(app.oneshot(get("/")));
    sleep(SECOND).await;
    drain.start();
    let (text, _) = read(task.await.unwrap().unwrap().into_body()).await;
    assert_eq!(text, "advertise");
}

#[tokio::test(start_paused = true)]
async fn without_a_layer_there_is_nothing_to_extract() {
    assert!(Draining::of(get("/").extensions()).is_none());
    assert!(DrainToken::of(get("/").extensions()).is_none());
}

#[cfg(feature = "axum")]
#[tokio::test(start_paused = true)]
async fn the_rejection_names_the_missing_layer() {
    use axum::{Router, routing};
    let routes = || {
        Router::new().route(
            "/",
            routing::get(|_: Draining, _: DrainToken| async { "ok" }),
        )
    };
    let ask = |app: Router| async {
        let request = Request::get("/").body(axum::body::Body::empty()).unwrap();
        let (parts, body) = app.oneshot(request).await.unwrap().into_parts();
        (parts.status.as_u16(), read(body).await.0)
    };
    let (status, text) = ask(routes()).await;
    assert!(status == 500 && text.contains("DrainLayer"), "{text}");
    assert_eq!(
        ask(routes().layer(drain().layer())).await,
        (200, "ok".to_owned())
    );
}

#[tokio::test(start_paused = true)]
async fn off_it_does_nothing() {
    let app = DrainLayer::off().layer(service(|request: Request<MockBody>| async move {
        assert!(Draining::of(request.extensions()).is_none());
        ok(two_records())
    }));
    assert_eq!(
        read(call(&app, get("/")).await.into_body()).await,
        ("ab".to_owned(), None)
    );
}

#[tokio::test(start_paused = true)]
async fn the_body_passes_as_it_is() {
    let drain = drain();
    let app = drain.layer().layer(service(|_| async {
        let steps = [mock::data("ab"), mock::trailer("x-a", "1")];
        ok(MockBody::new(steps).with_true_size().tells_end())
    }));
    let mut body = call(&app, get("/")).await.into_body();
    assert_eq!(
        (body.size_hint().exact(), body.is_end_stream()),
        (Some(2), false)
    );
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "ab"
    );
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    assert!(body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn probes_say_the_state() {
    let drain = drain();
    let hold = DrainToken::new(&drain);
    let ask = |probe: crate::Probe| async {
        let (parts, body) = probe.oneshot(get("/")).await.unwrap().into_parts();
        assert_eq!(parts.headers[header::CACHE_CONTROL], "no-store");
        (parts.status.as_u16(), read(body).await.0)
    };
    let said = |status, state: &str| (status, format!("{{\"state\":\"{state}\"}}"));
    assert_eq!(ask(drain.readiness()).await, said(200, "active"));
    drain.start();
    assert_eq!(ask(drain.readiness()).await, said(503, "advertise"));
    sleep(2 * SECOND).await;
    assert_eq!(ask(drain.readiness()).await, said(503, "close"));
    assert_eq!(ask(drain.liveness()).await, said(200, "close"));
    drain.dead().await;
    assert_eq!(ask(drain.liveness()).await, said(200, "dead"));
    drop(hold);
}
