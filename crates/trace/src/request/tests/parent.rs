//! The span that the request span belongs to.

use std::sync::Once;

use http::{Request, Response};
use opentelemetry::{
    global,
    trace::{SpanId, TraceId},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tower::{Layer, ServiceExt};
use tower_stream_core::mock::{self, MockBody};

use crate::{
    RemoteParent, RequestSpanLayer,
    testing::{Traces, get, int, read, respond},
};

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
