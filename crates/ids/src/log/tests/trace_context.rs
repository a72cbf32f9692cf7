//! The current span of OpenTelemetry on log lines.

use opentelemetry::{
    Context as OtelContext, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceContextExt, TraceState},
};

use super::*;

#[test]
fn a_line_names_the_current_span_behind_its_ids() {
    let (as_json, as_text) = (Lines::default(), Lines::default());
    let subscriber = Registry::default().with(RequestLog::new());
    let subscriber = subscriber
        .with(json_layer(&as_json))
        .with(text_layer(&as_text));
    let (trace, span) = (TraceId::from(0xabc_u128), SpanId::from(0xde_u64));
    let remote = SpanContext::new(
        trace,
        span,
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    with_default(subscriber, || {
        scope("r1").run(|| {
            info!("outside");
            let _attached = OtelContext::new().with_remote_span_context(remote).attach();
            info!("inside");
        });
    });
    let lines = as_json.json();
    assert!(!lines[0].contains_key("trace_id") && !lines[0].contains_key("span_id"));
    assert_eq!(lines[1]["trace_id"], "00000000000000000000000000000abc");
    assert_eq!(lines[1]["span_id"], "00000000000000de");
    assert_eq!(ids_of(&lines[1]), ("r1".into(), 2.into()));
    let end = " request_id=r1 sequence_id=2 trace_id=00000000000000000000000000000abc span_id=00000000000000de";
    assert!(as_text.text()[1].ends_with(end), "{:?}", as_text.text());
}
