//! The parent of the request span.

use std::sync::Once;

use http::{Request, Response};
use opentelemetry::{
    baggage::BaggageExt,
    global,
    propagation::TextMapCompositePropagator,
    trace::{SpanId, TraceContextExt, TraceId},
};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use tower::{Layer, ServiceExt};
use tower_stream_core::mock::{self, MockBody};

use crate::{
    RemoteParent, RequestSpanLayer,
    testing::{Traces, get, int, read, respond},
};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A request with a `traceparent` and its complete response.
async fn from_remote(layer: RequestSpanLayer) {
    let traceparent = Request::builder().header("traceparent", TRACEPARENT);
    answered(layer, traceparent).await;
}

/// A request and its complete response.
async fn answered(layer: RequestSpanLayer, request: http::request::Builder) {
    static PROPAGATOR: Once = Once::new();
    PROPAGATOR.call_once(|| {
        global::set_text_map_propagator(TextMapCompositePropagator::new(vec![
            Box::new(TraceContextPropagator::new()),
            Box::new(BaggagePropagator::new()),
        ]));
    });
    let request = request.body(()).unwrap();
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
async fn all_lines_of_tracestate_are_one_list() {
    let traces = Traces::lean();
    let request = Request::builder()
        .header("traceparent", TRACEPARENT)
        .header("tracestate", "first=1,second=2")
        .header("tracestate", "third=3");
    answered(RequestSpanLayer::new(), request).await;
    let state = traces.request().span_context.trace_state().header();
    assert_eq!(state, "first=1,second=2,third=3");
}

/// The baggage that the handler of this request sees, sorted by name.
async fn baggage_seen(layer: RequestSpanLayer, request: http::request::Builder) -> Vec<String> {
    use tracing_opentelemetry::OpenTelemetrySpanExt;
    let seen = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let see = std::sync::Arc::clone(&seen);
    let handler = tower::service_fn(move |_: Request<()>| {
        let context = tracing::Span::current().context();
        let baggage = context.baggage().iter();
        let pairs = baggage.map(|(name, (value, _))| format!("{name}={value}"));
        see.lock().extend(pairs);
        std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(
            MockBody::new([]),
        )))
    });
    let request = request.body(()).unwrap();
    let response = layer.layer(handler).oneshot(request).await.unwrap();
    read(response.into_body()).await.unwrap();
    let mut seen = seen.lock().clone();
    seen.sort_unstable();
    seen
}

#[tokio::test]
async fn baggage_comes_with_and_without_a_trace_context_of_a_client_that_is_trusted() {
    // The propagator.
    answered(RequestSpanLayer::new(), Request::builder()).await;
    for traces in [Traces::lean as fn() -> Traces, Traces::default] {
        for traceparent in [None, Some(TRACEPARENT)] {
            let traces = traces();
            let mut request = Request::builder()
                .header("baggage", "tenant=a")
                .header("baggage", "user=7;p=1");
            if let Some(traceparent) = traceparent {
                request = request.header("traceparent", traceparent);
            }
            let seen = baggage_seen(RequestSpanLayer::new(), request).await;
            assert_eq!(seen, ["tenant=a", "user=7"], "{traceparent:?}");
            assert_eq!(
                traces.request().parent_span_is_remote,
                traceparent.is_some()
            );
        }
        for remote in [RemoteParent::Link, RemoteParent::Ignore] {
            let _traces = traces();
            let layer = RequestSpanLayer::new().remote_parent(remote);
            let request = Request::builder().header("baggage", "tenant=a");
            assert!(baggage_seen(layer, request).await.is_empty(), "{remote:?}");
        }
    }
}

#[tokio::test]
async fn baggage_without_a_trace_context_leaves_the_local_parent() {
    use tracing::Instrument;
    use tracing_opentelemetry::OpenTelemetrySpanExt;
    let traces = Traces::lean();
    let gateway = tracing::info_span!("gateway");
    let gateway_id = gateway.context().span().span_context().span_id();
    let request = Request::builder().header("baggage", "tenant=a");
    answered(RequestSpanLayer::new(), request)
        .instrument(gateway.clone())
        .await;
    drop(gateway);
    assert_eq!(traces.request().parent_span_id, gateway_id);
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
