//! The parent of chunk spans.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use opentelemetry::{
    Context, KeyValue,
    trace::{
        FutureExt as _, Link, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId,
        TraceState, Tracer,
    },
};
use opentelemetry_sdk::trace::{SamplingDecision, SamplingResult, ShouldSample};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_stream_core::mock::{self, MockBody};
use tracing::Instrument;

use super::traced;
use crate::{
    ChunkSelection, ChunkSpanLayer, RequestSpanLayer, attribute,
    testing::{Traces, get, int, read, respond},
};

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
async fn a_sampled_span_inside_of_an_unsampled_request_is_a_parent() {
    /// Takes the spans of this name, and what is inside of them.
    #[derive(Clone, Debug)]
    struct Named(&'static str);
    impl ShouldSample for Named {
        fn should_sample(
            &self,
            parent: Option<&Context>,
            _: TraceId,
            name: &str,
            _: &SpanKind,
            _: &[KeyValue],
            _: &[Link],
        ) -> SamplingResult {
            let inside = parent.is_some_and(|parent| parent.span().span_context().is_sampled());
            SamplingResult {
                decision: match inside || name == self.0 {
                    true => SamplingDecision::RecordAndSample,
                    false => SamplingDecision::Drop,
                },
                attributes: Vec::new(),
                trace_state: TraceState::default(),
            }
        }
    }
    let traces = Traces::sampled_by(Named("inner"));
    let layer = ChunkSpanLayer::new(traces.tracer());
    let mut chunks = layer.layer(respond(Response::new(MockBody::new([mock::data("a")]))));
    let service = service_fn(move |request| {
        let span = tracing::info_span!("inner");
        let entered = span.enter();
        let response = chunks.call(request);
        drop(entered);
        response.instrument(span)
    });
    read(
        get(RequestSpanLayer::new().layer(service))
            .await
            .into_body(),
    )
    .await
    .unwrap();
    assert_eq!(traces.chunks().len(), 1);
}

#[tokio::test]
async fn without_context_activation_a_stale_context_is_not_the_parent() {
    let stale = SpanContext::new(
        TraceId::from(1),
        SpanId::from(1),
        TraceFlags::default(),
        false,
        TraceState::default(),
    );
    let _stale = Context::new().with_remote_span_context(stale).attach();
    let traces = Traces::lean();
    let body = traced(&traces, |layer| layer, MockBody::new([mock::data("a")])).await;
    read(body).await.unwrap();
    let request = traces.request().span_context.span_id();
    assert_eq!(traces.chunks()[0].parent_span_id, request);
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
