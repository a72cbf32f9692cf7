//! The attributes of a chunk span.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use http::{Request, Response};
use http_body_util::BodyExt;
use opentelemetry::KeyValue;
use tower::{Layer, ServiceExt, service_fn};
use tower_stream_core::{
    Claim, Exchange,
    mock::{self, MockBody},
};

use super::traced;
use crate::{
    ChunkAttributes, ChunkSpanLayer, RequestSpanLayer, attribute,
    testing::{Traces, attr, float, get, int, poll_once, read, respond, text},
};

#[tokio::test]
async fn the_ids_of_the_request_are_told() {
    let traces = Traces::lean();
    let mut request = Request::new(());
    let exchange = Exchange::of(request.extensions_mut());
    exchange.set_request_id("order-17".parse().unwrap());
    let sequence = exchange.sequence();
    sequence.next();
    let body = MockBody::new([mock::data("a"), mock::data("b")]);
    let layer = ChunkSpanLayer::new(traces.tracer());
    let service = RequestSpanLayer::new().layer(layer.layer(respond(Response::new(body))));
    let mut body = service.oneshot(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    sequence.next(); // A log line takes this number.
    read(body).await.unwrap();
    let chunks = traces.chunks();
    let numbers: Vec<_> = chunks
        .iter()
        .map(|span| int(span, attribute::SEQUENCE_ID))
        .collect();
    assert_eq!(numbers, [2, 4]);
    for chunk in &chunks {
        assert_eq!(text(chunk, attribute::STREAM_ID).unwrap(), "order-17");
    }
    assert_eq!(
        text(&traces.request(), attribute::REQUEST_ID).unwrap(),
        "order-17"
    );
}

#[tokio::test]
async fn chunks_that_a_layer_inside_numbers_keep_their_numbers() {
    let traces = Traces::lean();
    let mut request = Request::new(());
    let exchange = Exchange::of(request.extensions_mut());
    exchange.set_request_id("a1".parse().unwrap());
    let sequence = exchange.sequence();
    let service = service_fn(|request: Request<()>| async move {
        let inside = Exchange::get(request.extensions()).unwrap();
        let response = Response::new(MockBody::new([mock::data("a")]));
        assert!(inside.claim(Claim::ChunkNumbers));
        Ok::<_, Infallible>(response)
    });
    let layer = ChunkSpanLayer::new(traces.tracer());
    let service = RequestSpanLayer::new().layer(layer.layer(service));
    let body = service.oneshot(request).await.unwrap().into_body();
    sequence.next(); // The layer inside takes the number of the chunk.
    read(body).await.unwrap();
    assert_eq!(int(&traces.chunks()[0], attribute::SEQUENCE_ID), 1);
    assert_eq!(sequence.last(), 1);
}

#[tokio::test]
async fn attributes_come_from_the_request_and_from_the_handler() {
    let traces = Traces::lean();
    let layer = ChunkSpanLayer::new(traces.tracer())
        .with_attributes(|request| vec![KeyValue::new("tenant", request.uri.path().to_owned())]);
    let body = MockBody::new([mock::data("a"), mock::data("b")]);
    let mut response = Response::new(body);
    let model = KeyValue::new("model.name", "alice-1");
    response
        .extensions_mut()
        .insert(ChunkAttributes::new([model]));
    let service = RequestSpanLayer::new().layer(layer.layer(respond(response)));
    let request = Request::builder().uri("/acme").body(()).unwrap();
    read(service.oneshot(request).await.unwrap().into_body())
        .await
        .unwrap();
    let chunks = traces.chunks();
    assert_eq!(chunks.len(), 2);
    for chunk in &chunks {
        assert_eq!(text(chunk, "tenant").unwrap(), "/acme");
        assert_eq!(text(chunk, "model.name").unwrap(), "alice-1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_stream_has_the_names_of_genai() {
    let traces = Traces::lean();
    let ms = Duration::from_millis;
    let service = service_fn(move |_: Request<()>| async move {
        tokio::time::sleep(ms(100)).await;
        let script = [
            mock::sleep(ms(50)),
            mock::data("a"),
            mock::sleep(ms(20)),
            mock::data("b"),
        ];
        Ok::<_, Infallible>(Response::new(MockBody::new(script)))
    });
    let layer = ChunkSpanLayer::new(traces.tracer())
        .genai()
        .named("llm.chunk.process");
    let service = RequestSpanLayer::new().layer(layer.layer(service));
    read(get(service).await.into_body()).await.unwrap();
    let [first, second] = &traces.chunks()[..] else {
        panic!("two chunks");
    };
    assert_eq!(first.name, "llm.chunk.process");
    assert_eq!(float(first, attribute::GEN_AI_TIME_TO_FIRST_TOKEN), 0.15);
    assert_eq!(float(second, attribute::GEN_AI_TIME_PER_OUTPUT_TOKEN), 0.02);
    assert!(attr(second, attribute::GEN_AI_TIME_TO_FIRST_TOKEN).is_none());
    let request = traces.request();
    assert_eq!(float(&request, attribute::GEN_AI_TIME_TO_FIRST_TOKEN), 0.15);
}

#[tokio::test]
async fn the_event_is_there_when_asked_for() {
    let traces = Traces::lean();
    let body = MockBody::new([mock::data("a")]);
    read(traced(&traces, |layer| layer.with_event(true), body).await)
        .await
        .unwrap();
    let chunk = &traces.chunks()[0];
    assert_eq!(chunk.events.len(), 1);
    let event = &chunk.events[0];
    assert_eq!(event.name, "chunk_emitted");
    assert_eq!(event.timestamp, chunk.end_time);
    let since_epoch = chunk
        .end_time
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let timestamp = i64::try_from(since_epoch.as_micros()).unwrap();
    assert_eq!(event.attributes, [KeyValue::new("timestamp_us", timestamp)]);
}

#[tokio::test]
async fn a_panic_in_the_attributes_is_the_callers() {
    let traces = Traces::lean();
    let layer = ChunkSpanLayer::new(traces.tracer()).with_attributes(|_| panic!("mine"));
    let service = respond(Response::new(MockBody::new([])));
    let service = RequestSpanLayer::new().layer(layer.layer(service));
    let mut future = Box::pin(service.oneshot(Request::new(())));
    assert!(catch_unwind(AssertUnwindSafe(|| poll_once(future.as_mut()).is_ready())).is_err());
    drop(future);
    let request = traces.request();
    assert_eq!(text(&request, attribute::STREAM_OUTCOME).unwrap(), "panic");
}
