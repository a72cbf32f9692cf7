//! The span that a new one belongs to.

use http::Extensions;
use opentelemetry::{
    Context,
    trace::{SpanId, TraceContextExt},
};
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

/// In the extensions of a request whose span, where it is entered, is the current one of OpenTelemetry too.
///
/// tracing-opentelemetry sees to it, unless it is told not to. OpenTelemetry can then be asked instead of tracing, in a
/// tenth of the time.
#[derive(Clone, Copy)]
pub(crate) struct Activated;

/// The current span of OpenTelemetry; the invalid id without one.
pub(crate) fn activated() -> SpanId {
    Context::map_current(|context| context.span().span_context().span_id())
}

/// Whether it is known at once that the current span is not sampled.
pub(crate) fn is_known_unsampled(request: &Extensions) -> bool {
    request.get::<Activated>().is_some()
        && Context::map_current(|context| has_span(context) && !is_sampled(context))
}

pub(crate) fn has_span(context: &Context) -> bool {
    context.span().span_context().is_valid()
}

pub(crate) fn is_sampled(context: &Context) -> bool {
    context.span().span_context().is_sampled()
}
