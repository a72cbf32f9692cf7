//! The span that a new one belongs to.

use opentelemetry::{Context, trace::TraceContextExt};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The OpenTelemetry context of the current tracing span; without one, the current OpenTelemetry context.
///
/// The tracing span goes first because a subscriber without context activation leaves the other one stale.
pub(crate) fn current() -> Context {
    let of_tracing = tracing::Span::current().context();
    if has_span(&of_tracing) {
        of_tracing
    } else {
        Context::current()
    }
}

pub(crate) fn has_span(context: &Context) -> bool {
    context.span().span_context().is_valid()
}

pub(crate) fn is_sampled(context: &Context) -> bool {
    context.span().span_context().is_sampled()
}
