//! Finds the parent of a new span.

use opentelemetry::{
    Context,
    trace::{SpanId, TraceContextExt},
};
use tower_stream_core::{Claim, Exchange};
use tracing::dispatcher;
use tracing_opentelemetry::get_otel_context;

/// The OpenTelemetry context of the current tracing span; without one, the current OpenTelemetry context if it has a
/// span.
///
/// The tracing span takes precedence, because without context activation the OpenTelemetry context is stale.
pub(crate) fn current() -> Option<Context> {
    // Not through `Span::current()`, which increments and decrements the reference count of the span.
    let of_tracing = dispatcher::get_default(|dispatch| {
        let current = dispatch.current_span();
        get_otel_context(current.id()?, dispatch)
    });
    let of_opentelemetry =
        || Context::map_current(|current| has_span(current).then(|| current.clone()));
    of_tracing.filter(has_span).or_else(of_opentelemetry)
}

/// The id of OpenTelemetry's current span, or the invalid id.
pub(crate) fn activated() -> SpanId {
    Context::map_current(|context| context.span().span_context().span_id())
}

/// What is known at the call about the parent of the chunk spans.
#[derive(Debug)]
pub(crate) enum Parent {
    Sampled(Context),
    /// The parent may be entered only for the polls of the future.
    Unknown,
}

impl Parent {
    /// Returns `None` if the parent is known and not sampled.
    #[inline]
    pub(crate) fn of_call(exchange: &Exchange) -> Option<Self> {
        if is_known_unsampled(exchange) {
            return None;
        }
        match current() {
            None => Some(Self::Unknown),
            Some(current) => is_sampled(&current).then_some(Self::Sampled(current)),
        }
    }
}

/// Returns whether the current span is known not to be sampled.
///
/// Unless configured otherwise, tracing-opentelemetry makes the request span also OpenTelemetry's current span whenever
/// it is entered. Asking OpenTelemetry then takes a tenth of the time of asking tracing.
fn is_known_unsampled(exchange: &Exchange) -> bool {
    exchange.is_claimed(Claim::ActivatedSpan)
        && Context::map_current(|context| has_span(context) && !is_sampled(context))
}

pub(crate) fn has_span(context: &Context) -> bool {
    context.span().span_context().is_valid()
}

pub(crate) fn is_sampled(context: &Context) -> bool {
    context.span().span_context().is_sampled()
}
