//! The ids on OpenTelemetry log records (feature `opentelemetry`).

use std::time::Duration;

use opentelemetry::{InstrumentationScope, logs::LogRecord};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    logs::{LogProcessor, SdkLogRecord},
};

use super::number::EventIds;

/// Adds the attributes `request_id` and `sequence_id` to the log records of a request.
///
/// Processors run in the order in which they are added, so add this one before the one that exports. If the subscriber
/// has a [`RequestLog`](super::RequestLog), a record from `tracing` has the number that the event has on other log
/// lines. A record from the OpenTelemetry API takes its own number.
///
/// ```
/// use opentelemetry_sdk::logs::{InMemoryLogExporter, SdkLoggerProvider};
/// use tower_stream_ids::log::otel::RequestLogProcessor;
///
/// let exporter = InMemoryLogExporter::default();
/// let provider = SdkLoggerProvider::builder()
///     .with_log_processor(RequestLogProcessor::new())
///     .with_simple_exporter(exporter.clone())
///     .build();
/// # let _ = provider;
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RequestLogProcessor;

impl RequestLogProcessor {
    /// The processor.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl LogProcessor for RequestLogProcessor {
    fn emit(&self, record: &mut SdkLogRecord, _: &InstrumentationScope) {
        if let Some((request_id, number)) = EventIds::of_name(record.event_name()).get() {
            record.add_attribute("request_id", request_id.to_owned());
            // OpenTelemetry has no unsigned attribute, and 2^63 log lines are out of reach.
            record.add_attribute("sequence_id", number.cast_signed());
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
