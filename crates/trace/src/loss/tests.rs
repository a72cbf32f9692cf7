use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    trace::{Tracer, TracerProvider},
};
use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider, data},
    trace::{
        BatchSpanProcessor, InMemorySpanExporter, Sampler, SdkTracerProvider, SpanData,
        SpanExporter, SpanProcessor,
    },
};
use parking_lot::{Condvar, Mutex};

use super::{BatchOptions, CountingProcessor, Loss, SpanCounts, batch};

/// An exporter that waits until it is released.
#[derive(Clone, Debug, Default)]
struct Slow(Arc<Gate>);

#[derive(Debug, Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    holding: AtomicU64,
    received: AtomicU64,
    fails: AtomicBool,
}

impl Slow {
    fn open(&self) {
        *self.0.open.lock() = true;
        self.0.opened.notify_all();
    }

    fn received(&self) -> u64 {
        self.0.received.load(Ordering::SeqCst)
    }

    /// Waits until the exporter has received a batch.
    fn wait_for_a_batch(&self) {
        while self.0.holding.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }
}

impl SpanExporter for Slow {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.holding.fetch_add(1, Ordering::SeqCst);
        let mut open = self.0.open.lock();
        while !*open {
            self.0.opened.wait(&mut open);
        }
        if self.0.fails.load(Ordering::SeqCst) {
            return Err(OTelSdkError::InternalFailure("refused".to_owned()));
        }
        self.0
            .received
            .fetch_add(batch.len() as u64, Ordering::SeqCst);
        Ok(())
    }
}

fn provider(processor: CountingProcessor<BatchSpanProcessor>) -> SdkTracerProvider {
    SdkTracerProvider::builder()
        .with_span_processor(processor)
        .build()
}

fn end_spans(provider: &SdkTracerProvider, count: usize) {
    let tracer = provider.tracer("test");
    for _ in 0..count {
        drop(tracer.start("http.server.response.chunk"));
    }
}

/// The SDK's default queue.
const SDK_DEFAULT: BatchOptions = BatchOptions {
    max_queue_size: 2048,
    max_queue_bytes: usize::MAX,
    max_export_batch_size: 512,
    scheduled_delay: Duration::from_secs(5),
};

#[test]
fn a_burst_against_a_slow_exporter_is_accounted_to_the_span() {
    let slow = Slow::default();
    let (processor, loss) = batch(slow.clone(), SDK_DEFAULT);
    let provider = provider(processor);
    end_spans(&provider, 10_000);
    slow.wait_for_a_batch();
    assert_eq!(
        loss.counts(),
        SpanCounts {
            emitted: 10_000,
            dropped_queue_full: 10_000 - 2048,
            in_queue: 2048,
            ..SpanCounts::default()
        }
    );
    slow.open();
    provider
        .shutdown_with_timeout(Duration::from_secs(30))
        .unwrap();
    assert_eq!(slow.received(), 2048);
    assert_eq!(
        loss.counts(),
        SpanCounts {
            emitted: 10_000,
            exported: 2048,
            dropped_queue_full: 10_000 - 2048,
            ..SpanCounts::default()
        }
    );
}

#[test]
fn the_default_queue_holds_ten_thousand() {
    let slow = Slow::default();
    let (processor, loss) = batch(slow.clone(), BatchOptions::default());
    let provider = provider(processor);
    end_spans(&provider, 10_000);
    slow.open();
    provider
        .shutdown_with_timeout(Duration::from_secs(30))
        .unwrap();
    assert_eq!((loss.counts().exported, slow.received()), (10_000, 10_000));
}

#[test]
fn the_sum_is_exact_while_threads_race_a_draining_exporter() {
    let slow = Slow::default();
    slow.open();
    let small = BatchOptions {
        max_queue_size: 64,
        max_queue_bytes: usize::MAX,
        max_export_batch_size: 16,
        scheduled_delay: Duration::from_millis(1),
    };
    let (processor, loss) = batch(slow.clone(), small);
    let provider = provider(processor);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| end_spans(&provider, 5_000));
        }
        for _ in 0..1_000 {
            let counts = loss.counts();
            let fates = counts.exported + counts.dropped() + counts.in_queue;
            assert_eq!(counts.emitted, fates);
        }
    });
    provider
        .shutdown_with_timeout(Duration::from_secs(30))
        .unwrap();
    let counts = loss.counts();
    assert_eq!(counts.emitted, 20_000);
    assert_eq!(counts.exported, slow.received());
    assert_eq!(counts.exported + counts.dropped_queue_full, 20_000);
}

#[test]
fn a_failed_export_is_a_loss() {
    let slow = Slow::default();
    slow.0.fails.store(true, Ordering::SeqCst);
    slow.open();
    let (processor, loss) = batch(slow, SDK_DEFAULT);
    let provider = provider(processor);
    end_spans(&provider, 10);
    let _ = provider.force_flush();
    let counts = loss.counts();
    assert_eq!((counts.dropped_export_failed, counts.in_queue), (10, 0));
}

#[test]
fn an_exporter_that_panics_loses_its_batch_and_no_count() {
    #[derive(Debug)]
    struct Panics;
    impl SpanExporter for Panics {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            panic!("scripted")
        }
    }
    let (processor, loss) = batch(Panics, SDK_DEFAULT);
    let provider = provider(processor);
    end_spans(&provider, 10);
    let _ = provider.force_flush();
    let counts = loss.counts();
    assert_eq!((counts.dropped_export_failed, counts.in_queue), (10, 0));
}

#[test]
fn a_shutdown_that_times_out_leaves_its_spans_in_the_queue_until_they_go() {
    let slow = Slow::default();
    let (processor, loss) = batch(slow.clone(), SDK_DEFAULT);
    let provider = provider(processor);
    end_spans(&provider, 1_000);
    slow.wait_for_a_batch();
    let result = provider.shutdown_with_timeout(Duration::from_millis(10));
    assert!(result.is_err());
    assert_eq!(loss.counts().in_queue, 1_000);
    slow.open();
    while loss.counts().in_queue > 0 {
        std::thread::yield_now();
    }
    assert_eq!((loss.counts().exported, slow.received()), (1_000, 1_000));
}

/// A processor that keeps its spans and never exports them. Its shutdown succeeds or fails, as configured.
#[derive(Debug)]
struct Keeps {
    stops: bool,
}

impl SpanProcessor for Keeps {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &opentelemetry::Context) {}
    fn on_end(&self, _: SpanData) {}
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }
    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        if self.stops {
            Ok(())
        } else {
            Err(OTelSdkError::Timeout(timeout))
        }
    }
}

fn ended_span() -> SpanData {
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(opentelemetry_sdk::trace::InMemorySpanExporter::default())
        .build();
    let span = provider.tracer("test").start("span");
    span.exported_data().unwrap()
}

#[test]
fn what_a_shutdown_leaves_behind_or_comes_after_it_is_a_loss() {
    let loss = Loss::new(5);
    let processor = loss.processor(Keeps { stops: true });
    for _ in 0..3 {
        processor.on_end(ended_span());
    }
    assert_eq!(loss.counts().in_queue, 3);
    processor.shutdown().unwrap();
    processor.on_end(ended_span());
    let counts = loss.counts();
    assert_eq!(
        (counts.emitted, counts.dropped_shutdown, counts.in_queue),
        (4, 4, 0)
    );
}

#[test]
fn a_shutdown_that_failed_lets_nothing_in_either() {
    let loss = Loss::new(5);
    let processor = loss.processor(Keeps { stops: false });
    processor.on_end(ended_span());
    processor.shutdown().unwrap_err();
    processor.on_end(ended_span());
    let counts = loss.counts();
    assert_eq!((counts.dropped_shutdown, counts.in_queue), (1, 1));
}

#[test]
fn a_recorded_span_that_is_not_sampled_is_none_of_them() {
    #[derive(Clone, Debug)]
    struct RecordOnly;
    impl opentelemetry_sdk::trace::ShouldSample for RecordOnly {
        fn should_sample(
            &self,
            parent: Option<&opentelemetry::Context>,
            trace: opentelemetry::trace::TraceId,
            name: &str,
            kind: &opentelemetry::trace::SpanKind,
            attributes: &[opentelemetry::KeyValue],
            links: &[opentelemetry::trace::Link],
        ) -> opentelemetry_sdk::trace::SamplingResult {
            let mut result =
                Sampler::AlwaysOn.should_sample(parent, trace, name, kind, attributes, links);
            result.decision = opentelemetry_sdk::trace::SamplingDecision::RecordOnly;
            result
        }
    }
    let slow = Slow::default();
    slow.open();
    let (processor, loss) = batch(slow.clone(), SDK_DEFAULT);
    let provider = SdkTracerProvider::builder()
        .with_sampler(RecordOnly)
        .with_span_processor(processor)
        .build();
    end_spans(&provider, 3);
    provider.shutdown().unwrap();
    assert_eq!((loss.counts(), slow.received()), (SpanCounts::default(), 0));
}

#[test]
fn the_account_is_shown_as_instruments() {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).build();
    let meters = SdkMeterProvider::builder().with_reader(reader).build();
    let slow = Slow::default();
    let (processor, loss) = batch(slow.clone(), SDK_DEFAULT);
    loss.observe(&opentelemetry::metrics::MeterProvider::meter(
        &meters, "test",
    ));
    let provider = provider(processor);
    end_spans(&provider, 3_000);
    meters.force_flush().unwrap();
    slow.open();

    let mut seen = Vec::new();
    for resource in exporter.get_finished_metrics().unwrap() {
        for metric in resource.scope_metrics().flat_map(|scope| scope.metrics()) {
            let name = metric
                .name()
                .trim_start_matches("http.server.span.")
                .to_owned();
            match metric.data() {
                data::AggregatedMetrics::U64(data::MetricData::Sum(sum)) => {
                    let total = sum.data_points().map(|point| point.value()).sum::<u64>();
                    seen.push((name, total as i64));
                }
                data::AggregatedMetrics::I64(data::MetricData::Sum(sum)) => {
                    assert!(!sum.is_monotonic());
                    let total = sum.data_points().map(|point| point.value()).sum();
                    seen.push((name, total));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    seen.sort();
    let expected = [
        ("dropped", 952),
        ("emitted", 3_000),
        ("exported", 0),
        ("in_queue", 2_048),
    ];
    assert_eq!(seen, expected.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn a_full_queue_is_told_with_the_next_export() {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);

    let loss = Loss::new(1);
    let processor = loss.processor(Keeps { stops: true });
    let exporter = loss.exporter(InMemorySpanExporter::default());
    let export = || {
        let exported = std::pin::pin!(exporter.export(Vec::new()))
            .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(exported.is_ready());
    };
    for _ in 0..3 {
        processor.on_end(ended_span());
    }
    export();
    export();
    let text = String::from_utf8(lines.0.lock().clone()).unwrap();
    assert_eq!(
        text,
        " WARN tower_stream_trace::loss: spans are dropped: the export queue is full lost=2\n \
         INFO tower_stream_trace::loss: the export queue has room again lost=2\n"
    );
}

#[test]
fn after_a_panic_of_the_exporter_the_next_batches_leave() {
    /// Panics in its first export, before the future is created or in the future.
    #[derive(Debug)]
    struct Once {
        early: bool,
        panicked: Arc<AtomicBool>,
    }
    impl SpanExporter for Once {
        fn export(&self, _: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
            let panics = !self.panicked.swap(true, Ordering::SeqCst);
            let panic = || std::panic::resume_unwind(Box::new("one bad batch"));
            if panics && self.early {
                panic();
            }
            async move {
                if panics {
                    panic();
                }
                Ok(())
            }
        }
    }
    for early in [false, true] {
        let panicked = Arc::new(AtomicBool::new(false));
        let exporter = Once {
            early,
            panicked: Arc::clone(&panicked),
        };
        let (processor, loss) = batch(exporter, SDK_DEFAULT);
        let provider = provider(processor);
        end_spans(&provider, 10);
        assert!(provider.force_flush().is_err(), "the batch that panicked");
        for _ in 0..20 {
            end_spans(&provider, 1_000);
            provider.force_flush().unwrap();
        }
        assert_eq!(
            loss.counts(),
            SpanCounts {
                emitted: 20_010,
                exported: 20_000,
                dropped_export_failed: 10,
                ..SpanCounts::default()
            }
        );
        provider.shutdown().unwrap();
    }
}

#[test]
fn large_spans_are_bounded_in_bytes() {
    const MIB: usize = 1 << 20;
    let slow = Slow::default();
    let options = BatchOptions {
        max_queue_bytes: 8 * MIB,
        ..SDK_DEFAULT
    };
    let (processor, loss) = batch(slow.clone(), options);
    let provider = provider(processor);
    let tracer = provider.tracer("test");
    for _ in 0..100 {
        let text = KeyValue::new("text", "x".repeat(MIB));
        tracer
            .span_builder("large")
            .with_attributes([text])
            .start(&tracer);
    }
    let counts = loss.counts();
    // Each span takes slightly more memory than its text.
    assert_eq!((counts.emitted, counts.in_queue), (100, 7));
    assert_eq!(counts.dropped_queue_full, 93);
    // Small spans still fit.
    end_spans(&provider, 100);
    assert_eq!(loss.counts().in_queue, 107);
    slow.open();
    provider.force_flush().unwrap();
    assert_eq!(loss.counts().exported, 107);
    // Exported spans free their memory.
    let text = KeyValue::new("text", "x".repeat(7 * MIB));
    tracer
        .span_builder("large")
        .with_attributes([text])
        .start(&tracer);
    provider.force_flush().unwrap();
    assert_eq!(loss.counts().exported, 108);
    provider.shutdown().unwrap();
}
