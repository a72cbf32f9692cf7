//! Reads the trace context of a request.

use std::cell::OnceCell;

use http::{HeaderMap, HeaderValue, header};
use opentelemetry::{
    Context,
    baggage::{BaggageExt, KeyValueMetadata},
    global,
    propagation::Extractor,
    trace::TraceContextExt,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::layer::RemoteParent;
use crate::parent;

/// Sets the parent or the link, and the baggage, from these headers on a span that has not started.
pub(super) fn adopt(span: &Span, remote: RemoteParent, headers: &HeaderMap) {
    if remote == RemoteParent::Ignore {
        return;
    }
    let headers = Headers::new(headers);
    let found = global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &headers)
    });
    let has_span = parent::has_span(&found);
    if remote == RemoteParent::Link {
        if has_span {
            span.add_link(found.span().span_context().clone());
        }
        return;
    }
    let context = if has_span && is_news(&found) {
        found
    } else if found.baggage().is_empty() {
        return;
    } else {
        let baggage = found.baggage().iter();
        let baggage = baggage.map(|(name, (value, metadata))| {
            KeyValueMetadata::new(name.clone(), value.clone(), metadata.clone())
        });
        let current = parent::current().unwrap_or_else(Context::current);
        current.with_baggage(baggage)
    };
    // A subscriber without OpenTelemetry has no parent to set.
    let _ = span.set_parent(context);
}

/// A current span of the same trace is a closer parent than the client's.
fn is_news(remote: &Context) -> bool {
    let trace = |context: &Context| context.span().span_context().trace_id();
    parent::current().is_none_or(|current| trace(&current) != trace(remote))
}

/// Headers, as a propagator reads them.
///
/// A propagator reads one value per name. `tracestate` and `baggage` are lists that may span several lines (W3C Trace
/// Context 3.3.1, W3C Baggage 3.3.1), so these lines are joined.
struct Headers<'a> {
    map: &'a HeaderMap,
    tracestate: OnceCell<String>,
    baggage: OnceCell<String>,
}

impl<'a> Headers<'a> {
    fn new(map: &'a HeaderMap) -> Self {
        Self {
            map,
            tracestate: OnceCell::new(),
            baggage: OnceCell::new(),
        }
    }
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let lines = self.map.get_all(key);
        let mut values = lines.iter();
        let first = values.next()?;
        let joined = match key {
            "tracestate" => &self.tracestate,
            "baggage" => &self.baggage,
            _ => return text(first),
        };
        if values.next().is_none() {
            return text(first);
        }
        let join = || lines.iter().filter_map(text).collect::<Vec<_>>().join(",");
        Some(joined.get_or_init(join))
    }

    fn keys(&self) -> Vec<&str> {
        self.map.keys().map(header::HeaderName::as_str).collect()
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}
