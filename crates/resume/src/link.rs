//! The trace context of the request that began a stream (feature `trace`).

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The context of the current span as a `traceparent` (W3C Trace Context, section 3.2). Empty without a span of OpenTelemetry.
pub(crate) fn current() -> String {
    let context = Span::current().context();
    let span = context.span();
    let context = span.span_context();
    if !context.is_valid() {
        return String::new();
    }
    let flags = context.trace_flags().to_u8();
    format!(
        "00-{}-{}-{flags:02x}",
        context.trace_id(),
        context.span_id()
    )
}

/// Links this span to the span with this `traceparent`.
pub(crate) fn add(span: &Span, traceparent: &str) {
    if let Some(context) = read(traceparent) {
        span.add_link(context);
    }
}

fn read(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    let flags = TraceFlags::new(flags);
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
    use tracing::Instrument;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::{
        Memory,
        tests::support::{Client, SSE, app, request, resume, with_cursor},
    };

    #[test]
    fn other_text_is_no_context() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(read(good).is_some_and(|context| context.is_valid() && context.is_sampled()));
        for text in ["", "00", "00-x-y-01", "00-4bf92f3577b34da6a3ce929d0e0e4736"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_resumed_response_is_linked_to_the_request_that_began_the_stream() {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        let _default = tracing::subscriber::set_default(subscriber);

        let log = Memory::new();
        let (here, there) = (resume(log.clone()), resume(log));
        let (here, feed) = app(&here, here.layer(), SSE);
        let (there, _) = app(&there, there.layer(), SSE);
        let first = Client::open(&here, request("/"));
        let mut first = first.instrument(tracing::info_span!("first")).await;
        feed.send("data: 1\n\n");
        first.until("data: 1").await;
        // The producer runs here, then elsewhere, and then the stream has ended.
        for (app, name) in [(&here, "local"), (&there, "remote")] {
            let resumed = Client::open(app, with_cursor("/", &first.cursor()));
            drop(
                resumed
                    .instrument(tracing::info_span!("resumed", name))
                    .await,
            );
        }
        feed.end();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let id = first.id();
        let by_id = Client::open(&there, request(&format!("/streams/{id}")));
        drop(
            by_id
                .instrument(tracing::info_span!("resumed", name = "ended"))
                .await,
        );
        drop(first);

        let spans = exporter.get_finished_spans().unwrap();
        let named = |name: &str| -> Vec<&SpanData> {
            let named = spans.iter().filter(|span| span.name == name);
            named.collect()
        };
        let first = &named("first")[0].span_context;
        assert!(named("first")[0].links.is_empty());
        assert_eq!(named("resumed").len(), 3);
        for resumed in named("resumed") {
            let links: Vec<_> = resumed.links.iter().collect();
            assert_eq!(links.len(), 1, "{:?}", resumed.attributes);
            assert_eq!(links[0].span_context.trace_id(), first.trace_id());
            assert_eq!(links[0].span_context.span_id(), first.span_id());
            assert!(links[0].span_context.is_sampled());
            assert_ne!(resumed.span_context.trace_id(), first.trace_id());
        }
    }
}
