use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use opentelemetry::{
    Array, KeyValue, Value,
    trace::{Event, Link, Status},
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SpanData, SpanExporter},
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    counts::Account,
    report::{Destination, Reports},
};

/// Wraps an exporter and counts the spans that it reports as exported. See [`Loss::exporter`](super::Loss::exporter).
#[derive(Debug)]
pub struct CountingExporter<E> {
    inner: E,
    account: Arc<Account>,
    destination: Destination,
    reports: Mutex<Reports>,
}

impl<E> CountingExporter<E> {
    pub(super) fn new(inner: E, account: Arc<Account>) -> Self {
        Self {
            inner,
            account,
            destination: Destination::default(),
            reports: Mutex::default(),
        }
    }

    pub(super) fn to(self, destination: Destination) -> Self {
        Self {
            destination,
            ..self
        }
    }
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut leaving = Leaving {
            account: &self.account,
            spans: batch.len() as u64,
            bytes: batch.iter().map(span_bytes).sum(),
            exported: false,
        };
        // A panic would end the thread of the batch processor, and with it all later exports.
        let result = caught(|| self.inner.export(batch)).await;
        leaving.exported = result.is_ok();
        drop(leaving);
        let (now, counts) = (Instant::now(), self.account.counts());
        let reports = self.reports.lock().after_export(now, &counts);
        reports.write(&result, &self.destination);
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

/// Counts a batch when its export ends, also if it panics or its future is dropped.
struct Leaving<'a> {
    account: &'a Account,
    spans: u64,
    bytes: u64,
    exported: bool,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.account.settle(self.spans, self.bytes, self.exported);
    }
}

/// Runs an export. A panic counts as a failure of this batch.
async fn caught<F>(export: impl FnOnce() -> F) -> OTelSdkResult
where
    F: Future<Output = OTelSdkResult>,
{
    let panicked = |_| OTelSdkError::InternalFailure("the span exporter panicked".to_owned());
    let export = catch_unwind(AssertUnwindSafe(export)).map_err(panicked)?;
    let mut export = pin!(export);
    poll_fn(|cx| {
        let poll = AssertUnwindSafe(|| export.as_mut().poll(cx));
        catch_unwind(poll).unwrap_or_else(|panic| Poll::Ready(Err(panicked(panic))))
    })
    .await
}

/// Approximate size of a span in memory, to bound the queue: the struct, and its strings and lists.
pub(super) fn span_bytes(span: &SpanData) -> u64 {
    let events = span.events.iter();
    let links = span.links.iter();
    let status = match &span.status {
        Status::Error { description } => description.len(),
        _ => 0,
    };
    let bytes = size_of::<SpanData>()
        + span.name.len()
        + status
        + attribute_bytes(&span.attributes)
        + events
            .map(|event| size_of::<Event>() + event.name.len() + attribute_bytes(&event.attributes))
            .sum::<usize>()
        + links
            .map(|link| size_of::<Link>() + attribute_bytes(&link.attributes))
            .sum::<usize>();
    bytes as u64
}

fn attribute_bytes(attributes: &[KeyValue]) -> usize {
    let value = |value: &Value| match value {
        Value::String(text) => text.as_str().len(),
        Value::Array(Array::String(texts)) => texts
            .iter()
            .map(|text| size_of_val(text) + text.as_str().len())
            .sum(),
        Value::Array(Array::Bool(values)) => size_of_val(values.as_slice()),
        Value::Array(Array::I64(values)) => size_of_val(values.as_slice()),
        Value::Array(Array::F64(values)) => size_of_val(values.as_slice()),
        _ => 0,
    };
    size_of_val(attributes)
        + attributes
            .iter()
            .map(|attribute| value(&attribute.value))
            .sum::<usize>()
}
