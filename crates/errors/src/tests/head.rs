//! Failures before the head.

use std::{io, time::Duration};

use futures_util::FutureExt;
use tower_stream_core::{
    Cause, Dialect, Exchange, FaultKind, RequestId,
    mock::{self, PanicIn},
    wrapper::ResponseBody,
};

use super::*;
use crate::{Failure, WriteError};

fn layer() -> ErrorWriterLayer {
    ErrorWriterLayer::new()
}

#[tokio::test]
async fn an_error_in_the_first_poll_is_a_problem_document() {
    for (kind, name, status) in [
        (FaultKind::Other, "internal", 500),
        (FaultKind::Io, "io", 500),
        (FaultKind::Timeout, "timeout", 504),
        (FaultKind::DigestMismatch, "digest_mismatch", 502),
        (FaultKind::Drain, "drain", 503),
    ] {
        let error = io::Error::other(Cause::new(kind, "the secret"));
        let seen = send(&layer(), get(), answer(SSE, [mock::error(error)])).await;
        assert_eq!(seen.status, status);
        assert_eq!(seen.header("content-type"), "application/problem+json");
        let problem = seen.json();
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["title"], seen.status.canonical_reason().unwrap());
        assert_eq!(problem["status"], status);
        assert_eq!(problem["kind"], name);
        assert_eq!(problem["instance"], "id-1");
        assert!(!seen.text().contains("secret"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_total_limit_of_tower_http_is_a_timeout() {
    use tower_http::timeout::DeadlineBody;
    let service = service_fn(|_: Request<()>| async {
        let endless = MockBody::new([mock::data("{}\n"), mock::hang()]);
        let limited = DeadlineBody::new(Duration::from_secs(1), endless);
        let response = Response::builder().header("content-type", LINES);
        Ok::<_, Infallible>(response.body(limited).unwrap())
    });
    let seen = read(layer().layer(service).oneshot(get()).await.unwrap()).await;
    assert_eq!(
        seen.frames,
        ["{}\n", &format!("{}\n", told("timeout", 504))]
    );
}

#[tokio::test]
async fn a_panic_in_call_future_or_first_poll_is_a_500() {
    let in_call = service_fn(
        |_: Request<()>| -> std::future::Ready<Result<Response<MockBody>, Infallible>> {
            panic!("the secret")
        },
    );
    let in_future = service_fn(|_: Request<()>| async {
        tokio::task::yield_now().await;
        if true {
            panic!("the secret");
        }
        Ok::<_, Infallible>(Response::new(MockBody::new([])))
    });
    let seen = [
        read(layer().layer(in_call).oneshot(get()).await.unwrap()).await,
        read(layer().layer(in_future).oneshot(get()).await.unwrap()).await,
        send(&layer(), get(), answer(SSE, [mock::panic("the secret")])).await,
        send(
            &layer(),
            get(),
            answer(SSE, [mock::data("data: half"), mock::error("x")]),
        )
        .await,
    ];
    for seen in seen {
        assert_eq!(seen.status, 500, "{seen:?}");
        assert_eq!(seen.json()["instance"], "id-1");
        assert!(!seen.text().contains("secret"));
    }
}

#[tokio::test]
async fn a_panic_in_size_hint_or_is_end_stream_is_a_500() {
    for place in [PanicIn::SizeHint, PanicIn::IsEndStream] {
        let response = answer(SSE, [mock::data("data: 1\n\n")]).map(|b| b.panics_in(place));
        assert_eq!(send(&layer(), get(), response).await.status, 500);
    }
}

#[tokio::test]
async fn a_body_that_is_not_ready_delays_no_head() {
    let service = service_fn(move |_: Request<()>| {
        let response = Response::new(MockBody::new([mock::hang()]));
        async move { Ok::<_, Infallible>(response) }
    });
    let response = layer().layer(service).oneshot(get()).now_or_never();
    assert_eq!(response.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_stashed_first_frame_counts_in_size_and_end() {
    let body = MockBody::new([mock::data("abc"), mock::data("de")])
        .tells_end()
        .with_true_size();
    let response = Response::new(body);
    let service = once(response);
    let mut body = layer()
        .layer(service)
        .oneshot(get())
        .await
        .unwrap()
        .into_body();
    let sizes =
        |body: &ResponseBody<_, ErrorWriterLayer>| (body.size_hint().exact(), body.is_end_stream());
    assert_eq!(sizes(&body), (Some(5), false));
    body.frame().await;
    assert_eq!(sizes(&body), (Some(2), false));
    body.frame().await;
    assert_eq!(sizes(&body), (Some(0), true));
}

#[tokio::test]
async fn a_stream_that_may_get_a_tail_has_no_upper_bound() {
    let size = |content_type| async move {
        let mut hint = http_body::SizeHint::new();
        hint.set_lower(3);
        hint.set_upper(100);
        let response = answer(content_type, [mock::data("abc"), mock::pending()])
            .map(|b| b.with_size_hint(hint));
        let service = once(response);
        let response = layer().layer(service).oneshot(get()).await.unwrap();
        response.into_body().size_hint()
    };
    // The frame "abc" is held back, because no event has ended.
    assert_eq!(
        (size(SSE).await.lower(), size(SSE).await.upper()),
        (3, None)
    );
}

#[tokio::test]
async fn bodies_that_are_never_sent_are_not_polled() {
    for (method, status) in [
        ("HEAD", 200),
        ("GET", 204),
        ("GET", 304),
        ("GET", 101),
        ("CONNECT", 200),
    ] {
        let mut request = get();
        *request.method_mut() = method.parse().unwrap();
        let mut response = answer(SSE, [mock::panic("never")]);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
            .headers_mut()
            .insert("x-mine", "1".parse().unwrap());
        let probe = response.body().probe();
        let service = once(response);
        let response = layer().layer(service).oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["x-mine"], "1");
        drop(response);
        assert_eq!(
            (probe.polls(), probe.is_dropped()),
            (0, true),
            "{method} {status}"
        );
    }
}

#[tokio::test]
async fn a_body_that_nobody_sees_ends_without_a_word() {
    // Over HTTP/2, hyper polls the body of a response to HEAD.
    let mut request = get();
    *request.method_mut() = http::Method::HEAD;
    let seen = send(&layer(), request, answer(SSE, [mock::panic("x")])).await;
    assert_eq!((seen.status.as_u16(), seen.text().as_str()), (200, ""));
    assert!(seen.error.is_none());
}

#[tokio::test]
async fn a_body_that_has_ended_is_not_polled() {
    let response = answer(SSE, []).map(MockBody::tells_end);
    let probe = response.body().probe();
    assert_eq!(send(&layer(), get(), response).await.status, 200);
    assert_eq!(probe.polls(), 0);
}

#[tokio::test]
async fn a_replaced_head_keeps_what_is_still_true() {
    let mut response = answer(SSE, [mock::error("x")]);
    for (name, value) in [
        ("connection", "close"),
        ("vary", "origin"),
        ("access-control-allow-origin", "https://a.example"),
        ("content-length", "12"),
        ("content-digest", "md5=:AA==:"),
        ("cache-control", "max-age=60"),
        ("set-cookie", "a=b"),
    ] {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    let seen = send(&layer(), get(), response).await;
    let mut names: Vec<_> = seen.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "access-control-allow-origin",
            "connection",
            "content-type",
            "vary"
        ]
    );
}

#[tokio::test]
async fn layers_outside_find_fault_and_request_id_on_the_new_head() {
    let mut response = answer(SSE, [mock::error("x")]);
    let id: RequestId = "inner-1".parse().unwrap();
    Exchange::of(response.extensions_mut()).set_request_id(id.clone());
    // A service inside has created a new request, so the layers outside learn its exchange from the response.
    let service = layer().layer(once(response));
    let response = service.oneshot(Request::new(())).await.unwrap();
    let fault = response.extensions().get::<Exchange>().unwrap();
    assert_eq!(fault.cause().unwrap().message(), "x");
    assert_eq!(fault.request_id(), Some(&id));
    assert_eq!(read(response).await.json()["instance"], "inner-1");
}

#[tokio::test]
async fn html_for_those_who_want_it() {
    let mut request = get();
    let accept = "text/html,application/xhtml+xml,*/*;q=0.8";
    request
        .headers_mut()
        .insert("accept", accept.parse().unwrap());
    let layer = layer().expose_messages(true);
    let seen = send(&layer, request, answer(SSE, [mock::panic("<b>&")])).await;
    assert_eq!(seen.status, 500);
    assert_eq!(seen.header("content-type"), "text/html; charset=utf-8");
    assert!(
        seen.text().contains("<p>&lt;b&gt;&amp;</p>"),
        "{}",
        seen.text()
    );
    assert!(seen.text().contains("<code>id-1</code>"));
}

#[tokio::test]
async fn grpc_gets_trailers_only() {
    for content_type in ["application/grpc", "application/grpc-web+proto"] {
        let mut request = get();
        let value = content_type.parse().unwrap();
        request.headers_mut().insert("content-type", value);
        let drain = Cause::new(FaultKind::Drain, "secret");
        let response = answer(content_type, [mock::error(drain)]);
        let seen = send(&layer(), request, response).await;
        assert_eq!(seen.status, 200);
        assert_eq!(seen.header("content-type"), content_type);
        assert_eq!(seen.header("grpc-status"), "14");
        assert_eq!(seen.header("grpc-message"), "the server is going away");
        assert!(seen.frames.is_empty() && seen.trailers.is_none());
    }
}

#[tokio::test]
async fn a_dialect_answers_in_its_own_form() {
    let mut response = answer(SSE, [mock::panic("secret")]);
    response.extensions_mut().insert(Dialect::OPENAI_CHAT);
    let seen = send(&layer(), get(), response).await;
    assert_eq!(
        (seen.status.as_u16(), seen.header("content-type")),
        (500, "application/json")
    );
    assert_eq!(
        seen.text(),
        r#"{"error":{"code":"panic","message":"the response failed on the server","param":null,"request_id":"id-1","type":"server_error"}}"#
    );
}

#[tokio::test]
async fn a_writer_that_panics_is_replaced() {
    struct Bad;
    impl WriteError for Bad {
        fn head(&self, _: &Failure<'_>) -> Response<Bytes> {
            panic!("in the writer")
        }
    }
    let seen = send(&layer().writer(Bad), get(), answer(SSE, [mock::error("x")])).await;
    assert_eq!(seen.status, 500);
    assert_eq!(seen.header("content-type"), "application/problem+json");
}

#[tokio::test]
async fn without_a_first_poll_the_head_is_not_held() {
    let layer = layer().first_poll(false);
    let seen = send(&layer, get(), answer(SSE, [mock::error("x")])).await;
    assert_eq!(seen.status, 200);
    assert_eq!(
        seen.text(),
        format!("event: error\ndata: {}\n\n", told("internal", 500))
    );
}

#[tokio::test]
async fn off_changes_nothing() {
    let layer = ErrorWriterLayer::off();
    let seen = send(
        &layer,
        get(),
        answer(SSE, [mock::data("data: ha"), mock::error("mine")]),
    )
    .await;
    assert_eq!(
        (seen.status.as_u16(), seen.text().as_str()),
        (200, "data: ha")
    );
    assert_eq!(seen.error.unwrap().to_string(), "mine");
}

#[tokio::test]
async fn an_error_of_the_service_is_passed_on() {
    let service = service_fn(|_: Request<()>| async {
        Err::<Response<MockBody>, _>(io::Error::other("mine"))
    });
    let error = layer().layer(service).oneshot(get()).await.unwrap_err();
    assert_eq!(error.to_string(), "mine");
}

#[tokio::test]
async fn a_drain_that_ends_a_stream_before_its_head_says_when_to_come_back() {
    let wait = Duration::from_millis(2001);
    let cause = Cause::new(FaultKind::Drain, "draining").with_retry_after(wait);
    let error = cause;
    let steps = [mock::error(error)];
    let seen = send(&layer(), get(), answer("text/event-stream", steps)).await;
    assert_eq!(seen.status, 503);
    assert_eq!(seen.header("retry-after"), "3");
}
