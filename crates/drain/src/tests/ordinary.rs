//! Responses that are not streams, and handlers without a response yet.

use http::{Method, StatusCode, Version, header};
use http_body::Frame;
use tokio::time::{Instant, sleep};
use tower_layer::Layer;
use tower_stream_core::mock;

use super::*;
use crate::{DrainToken, Policy};

/// Advertises for one second, ends streams early within the next second, and is over after a minute.
fn early() -> Drain {
    Drain::builder()
        .advertise(SECOND)
        .deadline(60 * SECOND)
        .early_end_window(SECOND)
        .build()
}

fn typed(content_type: &'static str, body: MockBody) -> Response<MockBody> {
    let mut response = Response::new(body);
    let value = content_type.parse().unwrap();
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

/// Sends a request to a handler that responds after `wait`, with streams that end early, and starts the drain in the
/// meantime.
async fn answered_after(
    drain: &Drain,
    wait: Duration,
    answer: impl Fn() -> Response<MockBody> + Clone + Send + 'static,
) -> (Response<Drained>, Duration) {
    let layer = drain.farewell().policy(Policy::EndEarly);
    let app = drain.layer().layer(layer.layer(service(move |_| {
        let answer = answer.clone();
        async move {
            sleep(wait).await;
            answer()
        }
    })));
    let task = tokio::spawn(app.oneshot(get("/")));
    tokio::task::yield_now().await;
    let start = Instant::now();
    drain.start();
    (task.await.unwrap().unwrap(), start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_a_length_is_never_ended_early() {
    let declared = || {
        let body = MockBody::new([mock::data("{"), mock::sleep(5 * SECOND), mock::data("}")]);
        let mut response = typed("application/json", body);
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, 2.into());
        response
    };
    let events = || {
        let body = MockBody::new([mock::data("data: 1\n\n")]);
        typed("text/event-stream", body.with_true_size())
    };
    for (answer, text) in [
        (declared as fn() -> Response<MockBody>, "{}"),
        (events, "data: 1\n\n"),
    ] {
        let drain = early();
        let (response, _) = answered_after(&drain, 15 * SECOND, answer).await;
        assert_eq!(response.status(), 200);
        assert_eq!(read(response.into_body()).await, (text.to_owned(), None));
        let stats = drain.stats();
        assert_eq!((stats.served, stats.ended_early, stats.aborted), (1, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_no_records_ends_at_the_deadline_and_not_before() {
    let drain = early();
    let ticks = || {
        let tick = |_| [mock::data("x"), mock::sleep(SECOND)];
        typed("application/zip", MockBody::new((0..1000).flat_map(tick)))
    };
    let start = Instant::now();
    let (response, _) = answered_after(&drain, Duration::ZERO, ticks).await;
    let (text, error) = read(response.into_body()).await;
    // The last tick and the deadline are at the same time.
    assert!((60..=61).contains(&text.len()), "{}", text.len());
    assert_eq!(start.elapsed(), 60 * SECOND);
    assert!(error.is_some_and(|error| error.contains("shutting down")));
}

/// A probe is exempt, and responds whatever the drain does with streams: before, at and after the deadline.
#[tokio::test(start_paused = true)]
async fn an_exempt_probe_is_always_whole() {
    let drain = early();
    let _hold = DrainToken::new(&drain);
    let layer = drain.farewell().policy(Policy::EndEarly);
    let app = drain.layer().layer(layer.layer(drain.liveness()));
    drain.start();
    for (wait, state) in [(5, "close"), (60, "dead")] {
        sleep(wait * SECOND).await;
        let response = call(&app, get("/livez")).await;
        assert_eq!(response.status(), 200);
        let text = format!("{{\"state\":\"{state}\"}}");
        assert_eq!(read(response.into_body()).await, (text, None));
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_are_ready_with_the_head_are_not_lost() {
    let drain = early();
    let events = || {
        let steps = [mock::data("data: 1\n\n"), mock::data("data: 2\n\n")];
        typed("text/event-stream", MockBody::new(steps))
    };
    let (response, _) = answered_after(&drain, 15 * SECOND, events).await;
    let (text, error) = read(response.into_body()).await;
    assert!(text.starts_with("data: 1\n\n"), "{text}");
    assert!(text.contains("event: drain") && error.is_none(), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_whose_answer_is_ready_keeps_its_status() {
    let drain = early();
    let unary = || {
        let steps = [
            mock::data(&b"\0\0\0\0\x01a"[..]),
            mock::trailer("grpc-status", "0"),
        ];
        typed("application/grpc", MockBody::new(steps))
    };
    let (response, _) = answered_after(&drain, 15 * SECOND, unary).await;
    let mut body = std::pin::pin!(response.into_body());
    assert!(body.frame().await.unwrap().unwrap().is_data());
    let trailers = body.frame().await.unwrap().map(Frame::into_trailers);
    assert_eq!(trailers.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_gave_all_that_it_declared_is_complete() {
    let drain = drain();
    let app = drain
        .layer()
        .layer(drain.farewell().layer(service(|_| async {
            let body = MockBody::new([mock::data("hello"), mock::sleep(60 * SECOND)]);
            let mut response = Response::new(body);
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, 5.into());
            response
        })));
    let response = call(&app, get("/")).await;
    drain.start();
    let (text, error) = read(response.into_body()).await;
    assert_eq!((text.as_str(), error), ("hello", None));
    let stats = drain.stats();
    assert_eq!((stats.served, stats.ended_early), (1, 0));
}

/// Many streams start to end before the deadline, but ordinary responses do not.
#[tokio::test(start_paused = true)]
async fn answers_that_are_ready_before_the_deadline_are_whole_among_many_streams() {
    let drain = Drain::builder()
        .advertise(SECOND)
        .deadline(10 * SECOND)
        .build();
    let streams = drain
        .layer()
        .layer(drain.farewell().layer(service(|_| async {
            typed("text/event-stream", MockBody::new([mock::hang()]))
        })));
    for _ in 0..20_000 {
        tokio::spawn(read(call(&streams, get("/")).await.into_body()));
    }
    let answers = drain
        .layer()
        .layer(drain.farewell().layer(service(|_| async {
            sleep(9_700 * MS).await;
            let body = MockBody::new([mock::data("{}")]);
            typed("application/json", body.with_true_size())
        })));
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let answers = answers.clone();
            tokio::spawn(async move { read(call(&answers, get("/")).await.into_body()).await })
        })
        .collect();
    tokio::task::yield_now().await;
    drain.start();
    for client in clients {
        assert_eq!(client.await.unwrap(), ("{}".to_owned(), None));
    }
    drain.dead().await;
    let stats = drain.stats();
    assert_eq!(
        (stats.served, stats.ended_early, stats.aborted),
        (200, 20_000, 0)
    );
}

/// A request with this method and content type whose handler never responds.
async fn unanswered(method: Method, content_type: &'static str) -> Response<Drained> {
    let drain = drain();
    let app = drain.layer().layer(
        drain
            .farewell()
            .layer(service(|_| std::future::pending::<Response<MockBody>>())),
    );
    let mut request = get("/");
    *request.method_mut() = method;
    *request.version_mut() = Version::HTTP_2;
    let content_type = content_type.parse().unwrap();
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    let start = Instant::now();
    drain.start();
    let response = tokio::time::timeout(60 * SECOND, call(&app, request)).await;
    let response = response.expect("an answer");
    assert_eq!(start.elapsed(), 5 * SECOND, "at the deadline");
    assert_eq!(drain.stats().in_flight, 1);
    response
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_has_not_answered_at_the_deadline_is_answered_for() {
    let response = unanswered(Method::POST, "application/json").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers();
    assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
    let wait: u64 = headers[header::RETRY_AFTER]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=5).contains(&wait), "{wait}");
    let size = response.body().size_hint().exact();
    let (text, error) = read(response.into_body()).await;
    assert_eq!((size, error), (Some(text.len() as u64), None));
    assert!(text.contains("\"status\":503"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_call_of_grpc_that_has_no_answer_is_unavailable() {
    let response = unanswered(Method::POST, "application/grpc+proto").await;
    assert_eq!(response.status(), 200);
    let headers = response.headers();
    assert_eq!(headers["grpc-status"], "14");
    assert_eq!(headers[header::CONTENT_TYPE], "application/grpc+proto");
    assert!(response.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_head_request_without_an_answer_gets_no_body() {
    let response = unanswered(Method::HEAD, "text/plain").await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key(header::CONTENT_LENGTH));
    assert_eq!(read(response.into_body()).await, (String::new(), None));
}

/// `serve` keeps reading, so that the client gets its response.
#[tokio::test(start_paused = true)]
async fn an_upload_that_nobody_reads_is_known_when_it_is_answered_for() {
    for (field, value, unread) in [
        ("content-length", "1000000", true),
        ("transfer-encoding", "chunked", true),
        ("content-length", "0", false),
        ("x-none", "1", false),
    ] {
        let drain = drain();
        let inner = service(|_| std::future::pending::<Response<MockBody>>());
        let app = drain.layer().layer(drain.farewell().layer(inner));
        let mut request = get("/");
        *request.method_mut() = Method::POST;
        request.headers_mut().insert(field, value.parse().unwrap());
        drain.start();
        let response = call(&app, request).await;
        assert_eq!(response.status(), 503);
        let known = response.extensions().get::<crate::refusal::UnreadUpload>();
        assert_eq!(known.is_some(), unread, "{field}: {value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_is_answered_for_is_dropped_and_counted_once() {
    let drain = drain();
    let probe = MockBody::new([]);
    let handler = probe.probe();
    let held = std::sync::Arc::new(parking_lot::Mutex::new(Some(probe)));
    let app = drain
        .layer()
        .layer(drain.farewell().layer(service(move |_| {
            let held = held.lock().take();
            async move {
                std::future::pending::<()>().await;
                Response::new(held.unwrap())
            }
        })));
    drain.start();
    let response = call(&app, get("/")).await;
    assert!(handler.is_dropped());
    read(response.into_body()).await;
    drain.dead().await;
    let stats = drain.stats();
    assert_eq!((stats.served, stats.ended_early, stats.aborted), (0, 1, 0));
}
