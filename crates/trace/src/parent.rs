//! The span that a new one belongs to.

use opentelemetry::{Context, trace::TraceContextExt};
use tracing::dispatcher;
use tracing_opentelemetry::get_otel_context;

/// The OpenTelemetry context of the current tracing span; without one, the current OpenTelemetry context.
///
/// The tracing span goes first because a subscriber without context activation leaves the other one stale.
pub(crate) fn current() -> Context {
    // not through `Span::current()`, which counts one more holder of the span and gives it back
    let of_tracing = dispatcher::get_default(|dispatch| {
        let current = dispatch.current_span();
        get_otel_context(current.id()?, dispatch)
    });
    of_tracing.filter(has_span).unwrap_or_else(Context::current)
}

pub(crate) fn has_span(context: &Context) -> bool {
    context.span().span_context().is_valid()
}

pub(crate) fn is_sampled(context: &Context) -> bool {
    context.span().span_context().is_sampled()
}
