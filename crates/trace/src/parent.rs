//! The span that a new one belongs to.

use opentelemetry::{
    Context,
    trace::{SpanId, TraceContextExt},
};
use tower_stream_core::{Claim, Exchange};
use tracing::dispatcher;
use tracing_opentelemetry::get_otel_context;

/// The OpenTelemetry context of the current tracing span; without one, the current OpenTelemetry context if it has a span.
///
/// The tracing span goes first because a subscriber without context activation leaves the other one stale.
pub(crate) fn current() -> Option<Context> {
    // not through `Span::current()`, which counts one more holder of the span and gives it back
    let of_tracing = dispatcher::get_default(|dispatch| {
        let current = dispatch.current_span();
        get_otel_context(current.id()?, dispatch)
    });
    let of_opentelemetry =
        || Context::map_current(|current| has_span(current).then(|| current.clone()));
    of_tracing.filter(has_span).or_else(of_opentelemetry)
}

/// The current span of OpenTelemetry; the invalid id without one.
pub(crate) fn activated() -> SpanId {
    Context::map_current(|context| context.span().span_context().span_id())
}

/// What is known at the call of the span that chunk spans will belong to.
#[derive(Debug)]
pub(crate) enum Parent {
    Sampled(Context),
    /// It may be entered only for the polls of the future.
    Unknown,
}

impl Parent {
    /// `None` when it is known and not sampled.
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

/// Whether it is known at once that the current span is not sampled.
///
/// tracing-opentelemetry makes the request span the current one of OpenTelemetry too, where it is entered, unless it is
/// told not to. OpenTelemetry can then be asked instead of tracing, in a tenth of the time.
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
