use std::{sync::Arc, time::Duration};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};

use super::{counts::Account, exporter::span_bytes};

/// Wraps a processor: counts the sampled spans that end, and drops those that its queue could not hold. See
/// [`Loss::processor`](super::Loss::processor).
///
/// Spans that are recorded but not sampled are not passed on, because they are not for an exporter.
#[derive(Debug)]
pub struct CountingProcessor<P> {
    inner: P,
    account: Arc<Account>,
}

impl<P> CountingProcessor<P> {
    pub(super) fn new(inner: P, account: Arc<Account>) -> Self {
        Self { inner, account }
    }
}

impl<P: SpanProcessor> SpanProcessor for CountingProcessor<P> {
    fn on_start(&self, span: &mut Span, cx: &Context) {
        self.inner.on_start(span, cx);
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.account.admit(span_bytes(&span)) {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    /// Admits no more spans and shuts down the inner processor. If that stops within `timeout`, spans that are left in
    /// its queue count as dropped; otherwise they stay in the queue and may still be exported.
    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.account.closing();
        let result = self.inner.shutdown_with_timeout(timeout);
        if result.is_ok() {
            self.account.closed();
        }
        result
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
