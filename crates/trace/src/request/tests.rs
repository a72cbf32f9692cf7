use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Once,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use opentelemetry::{
    global,
    trace::{SpanId, SpanKind, Status, TraceId},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SpanData};
use tower::{Layer, ServiceExt, service_fn};
use tower_stream_body::{
    BoxError, FaultKind, RequestId, StreamError,
    mock::{self, MockBody},
};

use crate::{
    RemoteParent, RequestSpanLayer, attribute,
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

#[tokio::test]
async fn the_conventions_are_kept() {
    let traces = Traces::lean();
    let body = MockBody::new([mock::data("hello "), mock::data("world")]);
    let request = Request::builder()
        .uri("/greet?password=1")
        .version(Version::HTTP_2)
        .header("host", "example.org:8443")
        .header("user-agent", "curl/8")
        .extension("r-1".parse::<RequestId>().unwrap())
        .body(())
        .unwrap();
    let layer = RequestSpanLayer::new().scheme("https");
    let service = layer.layer(respond(Response::new(body)));
    let response = service.oneshot(request).await.unwrap();
    read(response.into_body()).await.unwrap();

    let span = traces.request();
    assert_eq!(span.name, "GET");
    assert_eq!(span.span_kind, SpanKind::Server);
    assert_eq!(span.status, Status::Unset);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/greet"),
        ("url.scheme", "https"),
        ("network.protocol.version", "2"),
        ("server.address", "example.org"),
        ("user_agent.original", "curl/8"),
        ("request_id", "r-1"),
        ("stream.outcome", "complete"),
    ] {
        assert_eq!(text(&span, key).as_deref(), Some(value), "{key}");
    }
    for (key, value) in [
        ("server.port", 8443),
        ("http.response.status_code", 200),
        ("http.response.body.size", 11),
        ("stream.chunks", 2),
    ] {
        assert_eq!(int(&span, key), value, "{key}");
    }
    assert!(float(&span, "stream.ttfc_ms") >= 0.0);
    for key in [
        "url.query",
        "error.type",
        "http.route",
        "http.request.method_original",
    ] {
        assert!(attr(&span, key).is_none(), "{key}");
    }
}

#[tokio::test]
async fn the_query_is_recorded_only_when_asked_for() {
    let traces = Traces::lean();
    let layer = RequestSpanLayer::new().record_query(true);
    let request = Request::builder()
        .uri("http://[::1]:80/?a=1")
        .body(())
        .unwrap();
    let service = layer.layer(respond(Response::new(MockBody::new([]))));
    read(service.oneshot(request).await.unwrap().into_body())
        .await
        .unwrap();
    let span = traces.request();
    assert_eq!(text(&span, "url.query").unwrap(), "a=1");
    assert_eq!(text(&span, "server.address").unwrap(), "::1");
}

#[tokio::test]
async fn an_unknown_method_cannot_choose_names() {
    let traces = Traces::lean();
    let request = Request::builder().method("BREW").body(()).unwrap();
    let service = RequestSpanLayer::new().layer(respond(Response::new(MockBody::new([]))));
    read(service.oneshot(request).await.unwrap().into_body())
        .await
        .unwrap();
    let span = traces.request();
    assert_eq!(span.name, "HTTP");
    assert_eq!(text(&span, "http.request.method").unwrap(), "_OTHER");
    assert_eq!(text(&span, "http.request.method_original").unwrap(), "BREW");
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

/// One way to end: the script, outcome, error.type, whether the status is Error.
type End = (
    &'static str,
    MockBody,
    &'static str,
    Option<&'static str>,
    bool,
);

fn ends() -> Vec<End> {
    use mock::{data, error, hang, panic, trailer};
    let drain = || StreamError::new(FaultKind::Drain, "draining");
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
        let service = RequestSpanLayer::new().layer(respond(Response::new(body)));
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

/// Logs in its poll and in its drop.
struct Logs;

impl Body for Logs {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        tracing::info!("poll");
        Poll::Ready(Some(Ok(Frame::data(Bytes::from("a")))))
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        tracing::info!("drop");
    }
}

#[tokio::test]
async fn a_log_line_in_the_poll_and_in_the_drop_has_its_request() {
    let traces = Traces::default();
    let mut body = get(RequestSpanLayer::new().layer(respond(Response::new(Logs))))
        .await
        .into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    // tracing-opentelemetry makes an event inside a span an event of that span
    let events = traces.request().events.len();
    assert_eq!(events, 2, "one of the poll, one of the drop");
}

#[tokio::test]
async fn the_handler_is_dropped_in_the_span() {
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            tracing::info!("cancelled");
        }
    }
    let traces = Traces::lean();
    let service = service_fn(|_: Request<()>| async {
        let _guard = Guard;
        std::future::pending::<Result<Response<MockBody>, Infallible>>().await
    });
    let mut future = Box::pin(
        RequestSpanLayer::new()
            .layer(service)
            .oneshot(Request::new(())),
    );
    assert!(poll_once(future.as_mut()).is_pending());
    drop(future);
    assert_eq!(traces.request().events.len(), 1);
}

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A request with a `traceparent`, answered in full.
async fn from_remote(layer: RequestSpanLayer) {
    static PROPAGATOR: Once = Once::new();
    PROPAGATOR.call_once(|| global::set_text_map_propagator(TraceContextPropagator::new()));
    let request = Request::builder()
        .header("traceparent", TRACEPARENT)
        .body(())
        .unwrap();
    let service = layer.layer(respond(Response::new(MockBody::new([]))));
    read(service.oneshot(request).await.unwrap().into_body())
        .await
        .unwrap();
}

fn remote_ids() -> (TraceId, SpanId) {
    let hex = |text| u64::from_str_radix(text, 16).unwrap();
    let trace = u128::from_str_radix("4bf92f3577b34da6a3ce929d0e0e4736", 16).unwrap();
    (TraceId::from(trace), SpanId::from(hex("00f067aa0ba902b7")))
}

#[tokio::test]
async fn a_remote_parent_is_trusted_linked_or_ignored() {
    let (trace, parent) = remote_ids();
    for traces in [Traces::lean as fn() -> Traces, Traces::default] {
        let trusting = traces();
        from_remote(RequestSpanLayer::new()).await;
        let span = trusting.request();
        assert_eq!(
            (span.span_context.trace_id(), span.parent_span_id),
            (trace, parent)
        );
        assert!(span.parent_span_is_remote);
        drop(trusting);

        let linking = traces();
        from_remote(RequestSpanLayer::new().remote_parent(RemoteParent::Link)).await;
        let span = linking.request();
        assert_ne!(span.span_context.trace_id(), trace);
        assert_eq!(span.links[0].span_context.span_id(), parent);
        drop(linking);

        let ignoring = traces();
        from_remote(RequestSpanLayer::new().remote_parent(RemoteParent::Ignore)).await;
        let span = ignoring.request();
        assert_ne!(span.span_context.trace_id(), trace);
        assert!(span.links.is_empty());
    }
}

#[tokio::test]
async fn a_local_span_of_the_same_trace_stays_the_parent() {
    use opentelemetry::propagation::TextMapPropagator;
    use tracing::Instrument;
    use tracing_opentelemetry::OpenTelemetrySpanExt;
    let (trace, remote) = remote_ids();
    let traces = Traces::lean();
    let gateway = tracing::info_span!("gateway");
    let carrier =
        std::collections::HashMap::from([("traceparent".to_owned(), TRACEPARENT.to_owned())]);
    gateway
        .set_parent(TraceContextPropagator::new().extract(&carrier))
        .unwrap();
    from_remote(RequestSpanLayer::new())
        .instrument(gateway.clone())
        .await;
    drop(gateway);
    let span = traces.request();
    assert_eq!(span.span_context.trace_id(), trace);
    assert_ne!(span.parent_span_id, remote);
}

#[tokio::test]
async fn applied_twice_there_is_one_span() {
    let traces = Traces::lean();
    let layer = RequestSpanLayer::new();
    let service = respond(Response::new(MockBody::new([mock::data("a")])));
    read(get(layer.layer(layer.layer(service))).await.into_body())
        .await
        .unwrap();
    assert_eq!(int(&traces.request(), "stream.chunks"), 1);
}

#[tokio::test]
async fn without_a_subscriber_or_off_it_only_passes_on() {
    let body = || MockBody::new([mock::data("a"), mock::error("x")]);
    let alone = RequestSpanLayer::new().layer(respond(Response::new(body())));
    let mut alone = get(alone).await.into_body();
    assert_eq!(
        alone.frame().await.unwrap().unwrap().into_data().unwrap(),
        "a"
    );
    assert_eq!(alone.frame().await.unwrap().unwrap_err().to_string(), "x");

    let traces = Traces::lean();
    let off = RequestSpanLayer::off().layer(respond(Response::new(body())));
    read(get(off).await.into_body()).await.unwrap_err();
    assert!(traces.spans().is_empty());
}

#[tokio::test]
async fn the_body_passes_unchanged() {
    let _traces = Traces::lean();
    for layer in [RequestSpanLayer::new(), RequestSpanLayer::off()] {
        let script = [mock::data("ab"), mock::trailer("x", "1")];
        let mock = MockBody::new(script).tells_end().with_true_size();
        let mut body = get(layer.layer(respond(Response::new(mock))))
            .await
            .into_body();
        assert_eq!(body.size_hint().exact(), Some(2));
        assert!(!body.is_end_stream());
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "ab"
        );
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert!(body.is_end_stream());
    }
}

/// A body fed by a task of its own, as handlers of long computations write them.
#[tokio::test]
async fn a_body_fed_by_a_task_of_its_own_is_followed() {
    struct Channel(tokio::sync::mpsc::Receiver<Bytes>);
    impl Body for Channel {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0
                .poll_recv(cx)
                .map(|data| data.map(|data| Ok(Frame::data(data))))
        }
    }
    let traces = Traces::lean();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        sender.send(Bytes::from("a")).await.unwrap();
        sender.send(Bytes::from("b")).await.unwrap();
    });
    let service = RequestSpanLayer::new().layer(respond(Response::new(Channel(receiver))));
    assert_eq!(read(get(service).await.into_body()).await.unwrap(), "ab");
    assert_eq!(int(&traces.request(), "stream.chunks"), 2);
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn axum_tells_the_route_and_the_client() {
    use axum::{Router, body::Body as AxumBody, extract::ConnectInfo, routing::get};
    let traces = Traces::lean();
    let nested = Router::new().route("/{id}", get(|| async { "hi" }));
    let router = Router::new()
        .nest("/orders", nested)
        .layer(RequestSpanLayer::new());
    let peer: std::net::SocketAddr = "10.1.2.3:999".parse().unwrap();
    let request = Request::builder()
        .uri("/orders/17")
        .extension(ConnectInfo(peer))
        .body(AxumBody::empty())
        .unwrap();
    let response = router.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    let span = traces.request();
    assert_eq!(span.name, "GET /orders/{id}");
    assert_eq!(text(&span, "http.route").unwrap(), "/orders/{id}");
    assert_eq!(text(&span, "client.address").unwrap(), "10.1.2.3");
}
