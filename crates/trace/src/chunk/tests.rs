use std::{
    convert::Infallible,
    num::NonZeroU64,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body, SizeHint};
use http_body_util::{BodyExt, Empty};
use opentelemetry::{
    Context, KeyValue,
    trace::{FutureExt as _, SpanKind, TraceContextExt, Tracer},
};
use opentelemetry_sdk::trace::SpanData;
use tower::{Layer, ServiceExt, service_fn};
use tower_stream_body::{
    RequestId, Sequence,
    mock::{self, MockBody},
};
use tracing::Instrument;

use crate::{
    ChunkAttributes, ChunkSelection, ChunkSpanLayer, RequestSpanLayer, attribute,
    response::{ChunkSpanBody, RequestSpanBody},
    testing::{Traces, attr, float, get, int, poll_once, read, respond, text},
};

/// Our two layers around one answer.
async fn traced(
    traces: &Traces,
    layer: impl FnOnce(ChunkSpanLayer) -> ChunkSpanLayer,
    body: MockBody,
) -> RequestSpanBody<ChunkSpanBody<MockBody>> {
    let layer = layer(ChunkSpanLayer::new(traces.tracer()));
    let service = RequestSpanLayer::new().layer(layer.layer(respond(Response::new(body))));
    get(service).await.into_body()
}

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

#[tokio::test]
async fn a_parent_is_needed_and_it_must_be_sampled() {
    let unsampled = Traces::unsampled();
    let nobody_asks =
        |layer: ChunkSpanLayer| layer.with_attributes(|_| panic!("nobody would see them"));
    let body = traced(&unsampled, nobody_asks, MockBody::new([mock::data("a")])).await;
    read(body).await.unwrap();
    assert!(unsampled.spans().is_empty());
    drop(unsampled);

    let alone = Traces::without_tracing();
    let layer = ChunkSpanLayer::new(alone.tracer());
    let service = layer.layer(respond(Response::new(MockBody::new([mock::data("a")]))));
    read(get(service).await.into_body()).await.unwrap();
    assert!(alone.spans().is_empty(), "no trace of its own");
}

#[tokio::test]
async fn an_opentelemetry_context_without_tracing_is_a_parent() {
    let traces = Traces::without_tracing();
    let parent = Context::new().with_span(traces.tracer().start("server"));
    let id = parent.span().span_context().span_id();
    let layer = ChunkSpanLayer::new(traces.tracer());
    let service = layer.layer(respond(Response::new(MockBody::new([mock::data("a")]))));
    let response = get(service).with_context(parent).await;
    read(response.into_body()).await.unwrap();
    assert_eq!(traces.chunks()[0].parent_span_id, id);
}

#[tokio::test]
async fn a_span_that_is_entered_only_for_the_future_is_a_parent() {
    for traces in [Traces::lean as fn() -> Traces, Traces::default] {
        let traces = traces();
        let layer = ChunkSpanLayer::new(traces.tracer());
        let mut service = layer.layer(respond(Response::new(MockBody::new([mock::data("a")]))));
        let future = tower::Service::call(&mut service, Request::new(()));
        let span = tracing::info_span!("mine");
        let response = future.instrument(span.clone()).await.unwrap();
        read(response.into_body()).await.unwrap();
        drop(span);
        let spans = traces.spans();
        let mine = spans.iter().find(|span| span.name == "mine").unwrap();
        assert_eq!(
            traces.chunks()[0].parent_span_id,
            mine.span_context.span_id()
        );
    }
}

#[tokio::test]
async fn it_works_under_tower_https_trace_layer() {
    for traces in [Traces::lean as fn() -> Traces, Traces::default] {
        let traces = traces();
        let layer = ChunkSpanLayer::new(traces.tracer()).select(ChunkSelection {
            first: 1,
            ..ChunkSelection::all()
        });
        let service = service_fn(|_: Request<Empty<Bytes>>| async {
            let body = MockBody::new([mock::data("a"), mock::data("b"), mock::data("c")]);
            Ok::<_, Infallible>(Response::new(body))
        });
        let service = tower_http::trace::TraceLayer::new_for_http()
            .make_span_with(|_: &Request<Empty<Bytes>>| tracing::info_span!("theirs"))
            .layer(layer.layer(service));
        let response = service.oneshot(Request::new(Empty::new())).await.unwrap();
        response.into_body().collect().await.unwrap();
        let spans = traces.spans();
        let theirs = spans.iter().find(|span| span.name == "theirs").unwrap();
        let chunks = traces.chunks();
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].parent_span_id, theirs.span_context.span_id());
        assert_eq!(int(theirs, attribute::CHUNK_SPANS_SKIPPED), 2);
    }
}

#[tokio::test]
async fn applied_twice_it_works_once() {
    let traces = Traces::lean();
    let inner = ChunkSpanLayer::new(traces.tracer()).named("inner");
    let outer = ChunkSpanLayer::new(traces.tracer()).named("outer");
    let service = respond(Response::new(MockBody::new([mock::data("a")])));
    let service = RequestSpanLayer::new().layer(outer.layer(inner.layer(service)));
    read(get(service).await.into_body()).await.unwrap();
    let chunks = traces.chunks();
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0].name, "inner");
}

#[tokio::test]
async fn a_provider_that_shuts_down_meanwhile_harms_nothing() {
    let traces = Traces::lean();
    let script = [mock::data("a"), mock::data("b"), mock::data("c")];
    let mut body = traced(&traces, |layer| layer, MockBody::new(script)).await;
    body.frame().await.unwrap().unwrap();
    body.frame().await.unwrap().unwrap();
    assert_eq!(traces.chunks().len(), 1);
    traces.provider.shutdown().unwrap();
    assert_eq!(read(body).await.unwrap(), "c");
}

#[tokio::test]
async fn off_and_none_do_nothing() {
    let traces = Traces::lean();
    for layer in [
        ChunkSpanLayer::off().genai().select(ChunkSelection::all()),
        ChunkSpanLayer::new(traces.tracer()).select(ChunkSelection::none()),
    ] {
        let service = respond(Response::new(MockBody::new([mock::data("a")])));
        let service = RequestSpanLayer::new().layer(layer.layer(service));
        read(get(service).await.into_body()).await.unwrap();
    }
    assert!(traces.chunks().is_empty());
}

#[tokio::test]
async fn the_ids_of_the_request_are_told() {
    let traces = Traces::lean();
    let sequence = Sequence::new();
    sequence.next();
    let mut request = Request::new(());
    request
        .extensions_mut()
        .insert("order-17".parse::<RequestId>().unwrap());
    request.extensions_mut().insert(sequence.clone());
    let body = MockBody::new([mock::data("a"), mock::data("b")]);
    let layer = ChunkSpanLayer::new(traces.tracer());
    let service = RequestSpanLayer::new().layer(layer.layer(respond(Response::new(body))));
    let mut body = service.oneshot(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    sequence.next(); // a log line
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
    let sequence = Sequence::new();
    let mut request = Request::new(());
    request.extensions_mut().insert(sequence.clone());
    let service = service_fn(|request: Request<()>| async move {
        let inside = request.extensions().get::<Sequence>().unwrap().clone();
        assert!(inside.claim_chunks());
        Ok::<_, Infallible>(Response::new(MockBody::new([mock::data("a")])))
    });
    let layer = ChunkSpanLayer::new(traces.tracer());
    let service = RequestSpanLayer::new().layer(layer.layer(service));
    let body = service.oneshot(request).await.unwrap().into_body();
    sequence.next(); // the layer inside, for the chunk
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

#[tokio::test(start_paused = true)]
async fn a_million_chunks_are_a_bounded_number_of_spans() {
    const COUNT: u64 = 1_000_000;
    const SLOW: u64 = 654_321;
    let traces = Traces::lean();
    let script = (0..COUNT).flat_map(|index| {
        let pause = (index == SLOW).then(|| mock::sleep(Duration::from_millis(900)));
        pause.into_iter().chain([mock::data("x")])
    });
    let mut body = traced(&traces, |layer| layer, MockBody::new(script)).await;
    while let Some(frame) = body.frame().await {
        frame.unwrap();
    }
    drop(body);
    let indexes: Vec<_> = traces
        .chunks()
        .iter()
        .map(|span| int(span, attribute::CHUNK_INDEX) as u64)
        .collect();
    assert!(indexes.len() <= 128, "{}", indexes.len());
    assert!(indexes.contains(&(COUNT - 1)), "the last");
    assert!(indexes.contains(&SLOW), "the slowest");
    let skipped = int(&traces.request(), attribute::CHUNK_SPANS_SKIPPED);
    assert_eq!(skipped as u64, COUNT - indexes.len() as u64);
}

#[tokio::test]
async fn what_is_skipped_is_counted_when_the_client_leaves() {
    let traces = Traces::lean();
    let selection = ChunkSelection {
        every: NonZeroU64::new(4),
        first: 0,
        max_per_stream: 100,
        ..ChunkSelection::all()
    };
    let script = (0..10).map(|_| mock::data("x")).chain([mock::hang()]);
    let mut body = traced(
        &traces,
        |layer| layer.select(selection),
        MockBody::new(script),
    )
    .await;
    for _ in 0..10 {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    let request = traces.request();
    assert_eq!(traces.chunks().len(), 3);
    assert_eq!(int(&request, attribute::CHUNK_SPANS_SKIPPED), 7);
    assert_eq!(
        text(&request, attribute::STREAM_OUTCOME).unwrap(),
        "aborted"
    );
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
