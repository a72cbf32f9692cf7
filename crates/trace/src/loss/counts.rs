//! The counters shared by a processor and its exporter.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{CountingExporter, CountingProcessor};

/// The counts of one pair of processor and exporter: exported and lost spans.
///
/// Clones share the counts.
#[derive(Clone, Debug)]
pub struct Loss(Arc<Account>);

#[derive(Debug)]
pub(super) struct Account {
    capacity: u64,
    capacity_bytes: u64,
    /// Number of spans that are waiting or being exported.
    outstanding: AtomicU64,
    outstanding_bytes: AtomicU64,
    emitted: AtomicU64,
    exported: AtomicU64,
    queue_full: AtomicU64,
    export_failed: AtomicU64,
    after_shutdown: AtomicU64,
    /// Set to admit no more spans.
    closing: AtomicBool,
    /// Set when the inner processor has stopped. Spans that are still outstanding are then lost.
    closed: AtomicBool,
}

/// What happened to the sampled spans that ended.
///
/// `emitted == exported + dropped() + in_queue` holds in every reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Sampled spans that ended.
    pub emitted: u64,
    /// Of these, spans that the exporter reported as exported.
    pub exported: u64,
    /// Dropped because the queue was full, by number or by bytes.
    pub dropped_queue_full: u64,
    /// Dropped because the export failed, panicked or was cancelled.
    pub dropped_export_failed: u64,
    /// Dropped because they ended during or after the shutdown, or were left in the queue by it.
    pub dropped_shutdown: u64,
    /// Waiting, or being exported.
    pub in_queue: u64,
}

impl SpanCounts {
    /// All dropped spans.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped_queue_full + self.dropped_export_failed + self.dropped_shutdown
    }
}

impl Loss {
    /// Creates the counts for a processor whose queue holds `max_queue_size` spans, at least 1.
    ///
    /// [`batch`](super::batch) creates the whole pair around the SDK's batch processor. For another processor, wrap its
    /// exporter with [`Loss::exporter`] and the processor itself with [`Loss::processor`].
    #[must_use]
    pub fn new(max_queue_size: usize) -> Self {
        Self::with_max_bytes(max_queue_size, usize::MAX)
    }

    /// Also limits the memory of the queue to `max_queue_bytes`. A single span that is larger is always dropped.
    #[must_use]
    pub fn with_max_bytes(max_queue_size: usize, max_queue_bytes: usize) -> Self {
        Self(Arc::new(Account {
            capacity: max_queue_size.max(1) as u64,
            capacity_bytes: max_queue_bytes as u64,
            outstanding: AtomicU64::new(0),
            outstanding_bytes: AtomicU64::new(0),
            emitted: AtomicU64::new(0),
            exported: AtomicU64::new(0),
            queue_full: AtomicU64::new(0),
            export_failed: AtomicU64::new(0),
            after_shutdown: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }))
    }

    /// Wraps the exporter inside of the processor.
    pub fn exporter<E>(&self, exporter: E) -> CountingExporter<E> {
        CountingExporter::new(exporter, Arc::clone(&self.0))
    }

    /// Wraps the processor.
    pub fn processor<P>(&self, processor: P) -> CountingProcessor<P> {
        CountingProcessor::new(processor, Arc::clone(&self.0))
    }

    /// Maximum number of outstanding spans.
    #[must_use]
    pub fn capacity(&self) -> usize {
        usize::try_from(self.0.capacity).unwrap_or(usize::MAX)
    }

    /// The current counts.
    #[must_use]
    pub fn counts(&self) -> SpanCounts {
        self.0.counts()
    }
}

impl Account {
    /// Counts a span of this size that ended. Returns false if it must be dropped.
    pub(super) fn admit(&self, bytes: u64) -> bool {
        // Counted before the span's outcome, see `counts`.
        self.emitted.fetch_add(1, Ordering::SeqCst);
        if self.closing.load(Ordering::SeqCst) {
            self.after_shutdown.fetch_add(1, Ordering::SeqCst);
            return false;
        }
        let spans = self.outstanding.fetch_add(1, Ordering::SeqCst);
        let held = self.outstanding_bytes.fetch_add(bytes, Ordering::SeqCst);
        let fits = spans < self.capacity && held.saturating_add(bytes) <= self.capacity_bytes;
        if !fits {
            self.release(1, bytes);
            self.queue_full.fetch_add(1, Ordering::SeqCst);
        }
        fits
    }

    /// Counts a batch that left the queue.
    pub(super) fn settle(&self, spans: u64, bytes: u64, exported: bool) {
        let fate = if exported {
            &self.exported
        } else {
            &self.export_failed
        };
        fate.fetch_add(spans, Ordering::SeqCst);
        self.release(spans, bytes);
    }

    fn release(&self, spans: u64, bytes: u64) {
        self.outstanding.fetch_sub(spans, Ordering::SeqCst);
        self.outstanding_bytes.fetch_sub(bytes, Ordering::SeqCst);
    }

    pub(super) fn closing(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    pub(super) fn closed(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(super) fn counts(&self) -> SpanCounts {
        // The outcomes are read before `emitted`, which is incremented first, so `in_queue` cannot become negative.
        let closed = self.closed.load(Ordering::SeqCst);
        let exported = self.exported.load(Ordering::SeqCst);
        let dropped_queue_full = self.queue_full.load(Ordering::SeqCst);
        let dropped_export_failed = self.export_failed.load(Ordering::SeqCst);
        let dropped_shutdown = self.after_shutdown.load(Ordering::SeqCst);
        let emitted = self.emitted.load(Ordering::SeqCst);
        let fates = exported + dropped_queue_full + dropped_export_failed + dropped_shutdown;
        let rest = emitted - fates;
        let (left_behind, in_queue) = if closed { (rest, 0) } else { (0, rest) };
        SpanCounts {
            emitted,
            exported,
            dropped_queue_full,
            dropped_export_failed,
            dropped_shutdown: dropped_shutdown + left_behind,
            in_queue,
        }
    }
}
