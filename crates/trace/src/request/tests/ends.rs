//! When the span ends, and with which outcome.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use opentelemetry::trace::Status;
use opentelemetry_sdk::trace::SpanData;
use tower::{Layer, ServiceExt, service_fn};
use tower_stream_core::{
    BoxError, Cause, FaultKind,
    mock::{self, MockBody},
};

use crate::{
    RequestSpanLayer, attribute,
    testing::{Traces, attr, float, get, int, poll_once, read, respond, text},
};

fn outcome(span: &SpanData) -> String {
    text(span, attribute::STREAM_OUTCOME).unwrap()
}

fn error_type(span: &SpanData) -> Option<String> {
    text(span, "error.type")
}

fn is_error(span: &SpanData) -> bool {
    matches!(span.status, Status::Error { .. })
}

#[tokio::test(start_paused = true)]
async fn the_span_lasts_to_the_end_of_the_body() {
    let traces = Traces::lean();
    let ms = Duration::from_millis;
    let script = [
        mock::sleep(ms(40)),
        mock::data("a"),
        mock::sleep(ms(60)),
        mock::data("b"),
    ];
    let service = RequestSpanLayer::new().layer(respond(Response::new(MockBody::new(script))));
    let body = get(service).await.into_body();
    assert!(traces.spans().is_empty(), "not ended at the head");
    read(body).await.unwrap();
    assert_eq!(float(&traces.request(), "stream.ttfc_ms"), 40.0);
}

#[tokio::test]
async fn a_grpc_status_is_an_attribute() {
    for (code, name) in [(0, "OK"), (5, "NOT_FOUND"), (14, "UNAVAILABLE")] {
        let traces = Traces::lean();
        // Trailers-Only
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", code)
            .body(MockBody::new([]))
            .unwrap();
        let service = RequestSpanLayer::new().layer(respond(response));
        read(get(service).await.into_body()).await.unwrap();
        let span = traces.request();
        assert_eq!(int(&span, "rpc.grpc.status_code"), i64::from(code));
        let told = text(&span, "rpc.response.status_code");
        assert_eq!(told.as_deref(), Some(name));
        assert_eq!(error_type(&span).as_deref(), (code != 0).then_some(name));
        assert_eq!(is_error(&span), code == 14);
    }
}

/// One way to end: script, outcome, error.type, and whether the span status is Error.
type End = (
    &'static str,
    MockBody,
    &'static str,
    Option<&'static str>,
    bool,
);

fn ends() -> Vec<End> {
    use mock::{data, error, hang, panic, trailer};
    let drain = || Cause::new(FaultKind::Drain, "draining");
    vec![
        ("empty", MockBody::new([]), "complete", None, false),
        (
            "says it is empty",
            MockBody::new([]).tells_end(),
            "complete",
            None,
            false,
        ),
        (
            "one frame",
            MockBody::new([data("a")]),
            "complete",
            None,
            false,
        ),
        (
            "no None",
            MockBody::new([data("a")]).tells_end(),
            "complete",
            None,
            false,
        ),
        (
            "trailers only",
            MockBody::new([trailer("x", "1")]),
            "complete",
            None,
            false,
        ),
        (
            "gRPC, fine",
            MockBody::new([data("a"), trailer("grpc-status", "0")]),
            "complete",
            None,
            false,
        ),
        (
            "gRPC, the client's fault",
            MockBody::new([data("a"), trailer("grpc-status", "5")]),
            "error",
            Some("NOT_FOUND"),
            false,
        ),
        (
            "gRPC, the server's fault",
            MockBody::new([data("a"), trailer("grpc-status", "13")]),
            "error",
            Some("INTERNAL"),
            true,
        ),
        (
            "error",
            MockBody::new([data("a"), error("x")]),
            "error",
            Some("_OTHER"),
            true,
        ),
        (
            "error first",
            MockBody::new([error("x")]),
            "error",
            Some("_OTHER"),
            true,
        ),
        (
            "drain",
            MockBody::new([data("a"), error(drain())]),
            "aborted",
            Some("drain"),
            false,
        ),
        (
            "panic",
            MockBody::new([data("a"), panic("x")]),
            "panic",
            Some("panic"),
            true,
        ),
        (
            "left",
            MockBody::new([data("a"), hang()]),
            "aborted",
            Some("dropped"),
            false,
        ),
        (
            "left at once",
            MockBody::new([hang()]),
            "aborted",
            Some("dropped"),
            false,
        ),
    ]
}

#[tokio::test]
async fn every_end_has_one_outcome() {
    for (name, body, expected, error, failed) in ends() {
        let traces = Traces::lean();
        let mut response = Response::new(body);
        if name.starts_with("gRPC") {
            let content_type = "application/grpc".parse().unwrap();
            response.headers_mut().insert("content-type", content_type);
        }
        let service = RequestSpanLayer::new().layer(respond(response));
        let task = tokio::spawn(read(get(service).await.into_body()));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        task.abort();
        let _ = task.await;
        let span = traces.request();
        assert_eq!(outcome(&span), expected, "{name}");
        assert_eq!(error_type(&span).as_deref(), error, "{name}");
        assert_eq!(is_error(&span), failed, "{name}");
    }
}

#[tokio::test]
async fn a_failure_says_what_happened() {
    let traces = Traces::lean();
    let body = MockBody::new([mock::error("the model went away")]);
    let service = RequestSpanLayer::new().layer(respond(Response::new(body)));
    read(get(service).await.into_body()).await.unwrap_err();
    assert_eq!(
        traces.request().status,
        Status::error("the model went away")
    );
}

#[tokio::test]
async fn a_body_that_is_never_polled() {
    for (method, expected) in [(Method::GET, "aborted"), (Method::HEAD, "complete")] {
        let traces = Traces::lean();
        let request = Request::builder().method(method).body(()).unwrap();
        let body = MockBody::new([mock::data("a")]);
        let service = RequestSpanLayer::new().layer(respond(Response::new(body)));
        drop(service.oneshot(request).await.unwrap());
        assert_eq!(outcome(&traces.request()), expected);
    }
}

#[tokio::test]
async fn an_upgrade_is_complete_at_the_head() {
    let traces = Traces::lean();
    let mut response = Response::new(MockBody::new([]));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let service = RequestSpanLayer::new().layer(respond(response));
    drop(get(service).await);
    let span = traces.request();
    assert_eq!(outcome(&span), "complete");
    assert_eq!(int(&span, "http.response.status_code"), 101);
}

#[tokio::test]
async fn a_5xx_is_an_error_though_it_is_complete() {
    let traces = Traces::lean();
    let mut response = Response::new(MockBody::new([mock::data("sorry")]));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let service = RequestSpanLayer::new().layer(respond(response));
    read(get(service).await.into_body()).await.unwrap();
    let span = traces.request();
    assert_eq!(outcome(&span), "complete");
    assert_eq!(error_type(&span).as_deref(), Some("503"));
    assert!(is_error(&span));
}

#[tokio::test]
async fn what_ends_before_the_head_has_an_outcome_too() {
    type Answer = Result<Response<MockBody>, BoxError>;
    async fn hangs() -> Answer {
        std::future::pending().await
    }
    async fn panics() -> Answer {
        panic!("x")
    }
    async fn fails() -> Answer {
        Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into())
    }
    type Future = Pin<Box<dyn std::future::Future<Output = Answer> + Send>>;
    let cases: [(fn() -> Future, _, _, _); 4] = [
        (|| Box::pin(hangs()), "aborted", "dropped", false),
        (|| Box::pin(panics()), "panic", "panic", true),
        (|| Box::pin(fails()), "error", "timeout", true),
        (|| panic!("in the call"), "panic", "panic", true),
    ];
    for (answer, expected, error, failed) in cases {
        let traces = Traces::lean();
        let service = RequestSpanLayer::new().layer(service_fn(move |_: Request<()>| answer()));
        let mut future = Box::pin(service.oneshot(Request::new(())));
        let polled = AssertUnwindSafe(|| poll_once(future.as_mut()).is_ready());
        let _ = catch_unwind(polled);
        drop(future);
        let span = traces.request();
        assert_eq!(outcome(&span), expected);
        assert_eq!(error_type(&span).as_deref(), Some(error));
        assert_eq!(is_error(&span), failed);
        assert!(attr(&span, "http.response.status_code").is_none());
    }
}
