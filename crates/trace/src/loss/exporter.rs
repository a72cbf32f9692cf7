use std::{sync::Arc, time::Duration};

use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

use super::counts::Account;

/// The exporter of a pair: counts what the exporter inside reports. See [`Loss::exporter`](super::Loss::exporter).
#[derive(Debug)]
pub struct CountingExporter<E> {
    inner: E,
    account: Arc<Account>,
}

impl<E> CountingExporter<E> {
    pub(super) fn new(inner: E, account: Arc<Account>) -> Self {
        Self { inner, account }
    }
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut leaving = Leaving {
            account: &self.account,
            spans: batch.len() as u64,
            exported: false,
        };
        let result = self.inner.export(batch).await;
        leaving.exported = result.is_ok();
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts a batch when its export is over, also by a panic or because the future was dropped.
struct Leaving<'a> {
    account: &'a Account,
    spans: u64,
    exported: bool,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.account.settle(self.spans, self.exported);
    }
}
