//! Exact counts of the spans that are lost on the way to the exporter.
//!
//! The SDK's batch processor drops a span when its queue is full, and does not expose how many. A burst of chunk spans
//! easily fills that queue (2048). Here, a processor around it and an exporter inside of it count together: the
//! processor admits no more spans than the queue can hold, and every sampled span that has ended is at any time either
//! exported, dropped or in the queue.
//!
//! Lost spans are also logged, with the target `tower_stream_trace::loss`: a warning at the first failed export, with
//! endpoint and cause; another one at most every 30 s, with the number of spans lost since; and a line at `info` when
//! exports succeed again. The same holds for a full queue.
//!
//! ```
//! use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
//! use opentelemetry::trace::{Tracer, TracerProvider};
//! use tower_stream_trace::loss::{BatchOptions, batch};
//!
//! let (processor, loss) = batch(InMemorySpanExporter::default(), BatchOptions::default());
//! let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
//! provider.tracer("test").start("span");
//! provider.force_flush().unwrap();
//!
//! let counts = loss.counts();
//! assert_eq!((counts.emitted, counts.exported), (1, 1));
//! assert_eq!(counts.emitted, counts.exported + counts.dropped() + counts.in_queue);
//! ```

mod counts;
mod exporter;
mod metrics;
mod processor;
mod report;
#[cfg(test)]
mod tests;

use std::time::Duration;

use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanExporter};

pub(crate) use self::report::Destination;
pub use self::{
    counts::{Loss, SpanCounts},
    exporter::CountingExporter,
    processor::CountingProcessor,
};

/// The settings of the batch processor of [`batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Maximum number of spans that wait or are being exported. Further spans are dropped and counted. At least 1.
    ///
    /// Default: 16384, which a burst of ten thousand chunk spans does not fill. A span takes about 1 KiB.
    pub max_queue_size: usize,
    /// Maximum memory of the spans that wait or are being exported, in bytes. This limit applies to large spans, for
    /// example with attributes of the handler. Further spans are dropped and counted together with those beyond
    /// `max_queue_size`.
    ///
    /// Default: 32 MiB.
    pub max_queue_bytes: usize,
    /// Maximum number of spans in one export, and the number of waiting spans that triggers one. Default: 512.
    pub max_export_batch_size: usize,
    /// The longest time for which a span waits for others. Default: one second.
    pub scheduled_delay: Duration,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            max_queue_size: 16_384,
            max_queue_bytes: 32 * 1024 * 1024,
            max_export_batch_size: 512,
            scheduled_delay: Duration::from_secs(1),
        }
    }
}

/// Creates the SDK's batch processor around this exporter, with counts. Use the processor only once, in one provider.
///
/// The processor exports on a thread of its own, so the exporter must not need an async runtime.
pub fn batch<E>(exporter: E, options: BatchOptions) -> (CountingProcessor<BatchSpanProcessor>, Loss)
where
    E: SpanExporter + 'static,
{
    batch_to(exporter, options, Destination::default())
}

/// [`batch`] for an exporter whose transport records the endpoint.
pub(crate) fn batch_to<E>(
    exporter: E,
    options: BatchOptions,
    destination: Destination,
) -> (CountingProcessor<BatchSpanProcessor>, Loss)
where
    E: SpanExporter + 'static,
{
    let loss = Loss::with_max_bytes(options.max_queue_size, options.max_queue_bytes);
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(loss.capacity())
        .with_max_export_batch_size(options.max_export_batch_size.max(1))
        .with_scheduled_delay(options.scheduled_delay)
        .build();
    let processor = BatchSpanProcessor::new(loss.exporter(exporter).to(destination), config);
    (loss.processor(processor), loss)
}
