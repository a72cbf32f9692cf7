use axum::{
    Router,
    body::Body,
    http::{Request, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http_body_util::BodyExt;
use std::{panic::AssertUnwindSafe, time::Duration};
use tokio::time::timeout;
use tower::ServiceExt;

use crate::testing::get;

/// How a body ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Clean,
    Failed,
    Panicked,
    Hangs,
    PanickedInDrop,
}

/// The response head, or `None` if the handler panicked. Without layers: the tests with layers are in `e2e`.
async fn head(query: &str) -> Option<Response> {
    let app = Router::new().route("/fail", axum::routing::get(super::fail));
    let request = Request::get(format!("/fail?{query}"));
    let response = app.oneshot(request.body(Body::empty()).unwrap());
    let caught = AssertUnwindSafe(response).catch_unwind().await;
    caught.ok().map(|response| response.unwrap())
}

/// Reads as a server does, to the end, an error or a panic.
async fn read(response: Response) -> (Vec<Bytes>, End) {
    let mut frames = Vec::new();
    let mut body = response.into_body();
    let end = loop {
        let frame = AssertUnwindSafe(body.frame()).catch_unwind();
        match timeout(Duration::from_secs(10), frame).await {
            Err(_) => break End::Hangs,
            Ok(Err(_)) => break End::Panicked,
            Ok(Ok(None)) => break End::Clean,
            Ok(Ok(Some(Err(_)))) => break End::Failed,
            Ok(Ok(Some(Ok(frame)))) => frames.push(frame.into_data().unwrap()),
        }
    };
    match std::panic::catch_unwind(AssertUnwindSafe(|| drop(body))) {
        Ok(()) => (frames, end),
        Err(_) => {
            assert_eq!(end, End::Clean);
            (frames, End::PanickedInDrop)
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_way_fails_its_own_way_after_the_records() {
    for (how, records, end) in [
        ("panic-body", 3, End::Panicked),
        ("panic-drop", 3, End::PanickedInDrop),
        ("error-body", 3, End::Failed),
        ("error-first", 0, End::Failed),
        ("producer-panic", 3, End::Failed),
        ("hang", 3, End::Hangs),
    ] {
        for format in ["sse", "ndjson", "bytes", "json"] {
            for length in [0, 1] {
                let query = format!("how={how}&format={format}&after=3&length={length}");
                let response = head(&query).await.unwrap();
                let declared = response.headers().get(header::CONTENT_LENGTH).cloned();
                let (frames, got) = read(response).await;
                assert_eq!((frames.len(), &got), (records, &end), "{query}");
                let sent = frames.concat().len();
                match declared.map(|value| value.to_str().unwrap().parse::<usize>().unwrap()) {
                    None => assert_eq!(length, 0),
                    Some(declared) if how == "panic-drop" => assert_eq!(declared, sent),
                    Some(declared) => assert!(declared > sent, "{query}"),
                }
            }
        }
    }
    assert!(head("how=panic-handler").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn after_0_fails_at_the_first_poll() {
    for (how, end) in [
        ("panic-body", End::Panicked),
        ("error-body", End::Failed),
        ("producer-panic", End::Failed),
        ("hang", End::Hangs),
    ] {
        let response = head(&format!("how={how}&after=0")).await.unwrap();
        assert_eq!(read(response).await, (Vec::new(), end), "{how}");
    }
    // In the first poll, so that the head can still be replaced.
    let error = head("how=error-first").await.unwrap().into_body();
    assert!(error.into_data_stream().next().now_or_never().is_some());
    let error = head("how=error-body&after=0").await.unwrap().into_body();
    assert!(error.into_data_stream().next().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_records_have_the_form_asked_for() {
    for (format, content_type, first, second) in [
        (
            "sse",
            "text/event-stream",
            "data: {\"n\":0,",
            "data: {\"n\":1,",
        ),
        ("ndjson", "application/x-ndjson", "{\"n\":0,", "{\"n\":1,"),
        ("json", "application/json", "[{\"n\":0,", ",{\"n\":1,"),
        ("bytes", "application/octet-stream", "Alice was", "tired of"),
    ] {
        let response = head(&format!("how=error-body&format={format}&after=2"))
            .await
            .unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], content_type);
        let (frames, _) = read(response).await;
        assert!(frames[0].starts_with(first.as_bytes()), "{frames:?}");
        assert!(frames[1].starts_with(second.as_bytes()), "{frames:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_ends_well_is_whole_json() {
    let response = head("how=panic-drop&format=json&after=4").await.unwrap();
    let (frames, _) = read(response).await;
    let array: Vec<serde_json::Value> = serde_json::from_slice(&frames.concat()).unwrap();
    assert_eq!(array.len(), 4);
}

#[tokio::test]
async fn a_bad_parameter_is_named() {
    for (query, name) in [
        ("", "how"),
        ("?how=quietly", "how"),
        ("?how=hang&format=xml", "format"),
        ("?how=hang&after=100001", "after"),
        ("?how=hang&length=2", "length"),
        ("?how=hang&interval_ms=x", "interval_ms"),
        ("?how=hang&count=3", "count"),
    ] {
        get(&format!("/fail{query}")).await.assert_names(name);
    }
}
