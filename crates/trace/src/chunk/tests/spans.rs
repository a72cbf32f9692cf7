//! A span for each chunk.

use std::time::Duration;

use http::{Method, Request, Response};
use http_body::{Body, SizeHint};
use http_body_util::BodyExt;
use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::SpanData;
use tower::{Layer, ServiceExt};
use tower_stream_core::mock::{self, MockBody};

use super::traced;
use crate::{
    ChunkSpanLayer, RequestSpanLayer, attribute,
    testing::{Traces, attr, float, get, int, read, respond, text},
};

fn millis(span: &SpanData) -> u128 {
    span.end_time
        .duration_since(span.start_time)
        .unwrap()
        .as_millis()
}

#[tokio::test(start_paused = true)]
async fn a_chunk_is_a_child_with_its_times() {
    let traces = Traces::lean();
    let ms = Duration::from_millis;
    let script = [
        mock::sleep(ms(50)),
        mock::data("abc"),
        mock::data("de"),
        mock::sleep(ms(20)),
        mock::data("f"),
    ];
    let mut body = traced(&traces, |layer| layer, MockBody::new(script)).await;
    let begun = tokio::time::Instant::now();
    for hold in [30, 0, 7] {
        body.frame().await.unwrap().unwrap();
        tokio::time::sleep(ms(hold)).await;
    }
    drop(body);
    assert_eq!(begun.elapsed(), ms(50 + 30 + 20 + 7));

    let request = traces.request();
    let chunks = traces.chunks();
    let seconds = |key| {
        chunks
            .iter()
            .map(|span| float(span, key))
            .collect::<Vec<_>>()
    };
    assert_eq!(seconds(attribute::CHUNK_PRODUCER_WAIT), [0.05, 0.0, 0.02]);
    assert_eq!(seconds(attribute::CHUNK_CONSUMER_HOLD), [0.03, 0.0, 0.007]);
    assert_eq!(chunks.iter().map(millis).collect::<Vec<_>>(), [50, 0, 20]);
    let since_first = |span: &SpanData| span.start_time.duration_since(chunks[0].start_time);
    assert_eq!(since_first(&chunks[2]).unwrap(), ms(80));
    for (index, (chunk, length)) in chunks.iter().zip([3, 2, 1]).enumerate() {
        assert_eq!(chunk.name, "http.server.response.chunk");
        assert_eq!(chunk.span_kind, SpanKind::Internal);
        assert_eq!(chunk.parent_span_id, request.span_context.span_id());
        assert_eq!(
            chunk.span_context.trace_id(),
            request.span_context.trace_id()
        );
        assert_eq!(int(chunk, attribute::CHUNK_INDEX), index as i64);
        assert_eq!(int(chunk, attribute::CHUNK_LENGTH), length);
        assert_eq!(
            text(chunk, attribute::STREAM_ID).unwrap(),
            request.span_context.trace_id().to_string()
        );
        assert!(attr(chunk, attribute::SEQUENCE_ID).is_none());
        assert!(chunk.events.is_empty());
    }
    assert_eq!(int(&request, attribute::CHUNK_SPANS_SKIPPED), 0);
}

#[tokio::test]
async fn every_data_frame_has_one_span_however_the_body_ends() {
    use mock::{data, error, hang, panic, pending, trailer};
    for (name, body, count) in [
        ("empty", MockBody::new([]), 0),
        ("empty and says so", MockBody::new([]).tells_end(), 0),
        ("one frame", MockBody::new([data("a")]), 1),
        (
            "ends without None",
            MockBody::new([data("a"), data("b")]).tells_end(),
            2,
        ),
        (
            "declared length",
            MockBody::new([data("a"), data("b")]).with_true_size(),
            2,
        ),
        ("trailers", MockBody::new([data("a"), trailer("x", "1")]), 1),
        ("trailers only", MockBody::new([trailer("x", "1")]), 0),
        ("an empty frame", MockBody::new([data(""), data("b")]), 2),
        (
            "pending between",
            MockBody::new([pending(), data("a"), pending(), data("b")]),
            2,
        ),
        ("error", MockBody::new([data("a"), error("x")]), 1),
        ("error first", MockBody::new([error("x")]), 0),
        ("panic", MockBody::new([data("a"), panic("x")]), 1),
        (
            "dropped while pending",
            MockBody::new([data("a"), hang()]),
            1,
        ),
    ] {
        let traces = Traces::lean();
        let body = traced(&traces, |layer| layer, body).await;
        let task = tokio::spawn(read(body));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        task.abort();
        let _ = task.await;
        let chunks = traces.chunks();
        assert_eq!(chunks.len(), count, "{name}");
        let request = traces.request();
        for chunk in &chunks {
            assert_eq!(
                chunk.parent_span_id,
                request.span_context.span_id(),
                "{name}"
            );
        }
        let skipped = attr(&request, attribute::CHUNK_SPANS_SKIPPED);
        assert_eq!(skipped, (count > 0).then_some(0_i64.into()), "{name}");
    }
}

#[tokio::test]
async fn a_body_that_is_never_polled_has_no_chunks() {
    for method in [Method::GET, Method::HEAD] {
        let traces = Traces::lean();
        let layer = ChunkSpanLayer::new(traces.tracer());
        let inner = layer.layer(respond(Response::new(MockBody::new([mock::data("a")]))));
        let request = Request::builder().method(method).body(()).unwrap();
        let response = RequestSpanLayer::new().layer(inner).oneshot(request).await;
        drop(response);
        assert!(traces.chunks().is_empty());
        assert_eq!(traces.spans().len(), 1);
    }
}

#[tokio::test]
async fn the_body_passes_unchanged() {
    let traces = Traces::lean();
    for layer in [ChunkSpanLayer::new(traces.tracer()), ChunkSpanLayer::off()] {
        let script = [mock::data("ab"), mock::data("c"), mock::trailer("x", "1")];
        let mock = MockBody::new(script).tells_end().with_true_size();
        let inner = layer.layer(respond(Response::new(mock)));
        let mut body = get(RequestSpanLayer::new().layer(inner)).await.into_body();
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(!body.is_end_stream());
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "ab"
        );
        assert_eq!(body.size_hint().exact(), Some(1));
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "c"
        );
        let trailers = body
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_trailers()
            .unwrap();
        assert_eq!(trailers["x"], "1");
        assert!(body.is_end_stream());
    }
    let unknown = respond(Response::new(
        MockBody::new([]).with_size_hint(SizeHint::new()),
    ));
    let body = get(ChunkSpanLayer::off().layer(unknown)).await.into_body();
    assert_eq!(body.size_hint().upper(), None);
}
