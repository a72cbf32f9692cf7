//! The same numbers on OpenTelemetry log records.

use super::{super::otel::RequestLogProcessor, *};
use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider};
use opentelemetry_sdk::logs::{InMemoryLogExporter, SdkLoggerProvider};

fn provider() -> (SdkLoggerProvider, InMemoryLogExporter) {
    let exporter = InMemoryLogExporter::default();
    let provider = SdkLoggerProvider::builder()
        .with_log_processor(RequestLogProcessor::new())
        .with_simple_exporter(exporter.clone())
        .build();
    (provider, exporter)
}

fn exported(exporter: &InMemoryLogExporter) -> Vec<(Value, Value)> {
    let logs = exporter.get_emitted_logs().unwrap();
    let ids = logs.iter().map(|log| {
        let of = |name: &str| {
            let mut all = log
                .record
                .attributes_iter()
                .filter(|(k, _)| k.as_str() == name);
            let value = match all.next() {
                Some((_, AnyValue::String(text))) => text.as_str().into(),
                Some((_, AnyValue::Int(number))) => (*number).into(),
                _ => Value::Null,
            };
            assert!(all.next().is_none());
            value
        };
        (of("request_id"), of("sequence_id"))
    });
    ids.collect()
}

#[test]
fn a_log_record_has_the_number_of_the_line() {
    use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
    for bridge_first in [true, false] {
        let (provider, exporter) = provider();
        let lines = Lines::default();
        let bridge = OpenTelemetryTracingBridge::new(&provider);
        let registry = Registry::default();
        let dispatch: tracing::Dispatch = if bridge_first {
            let registry = registry.with(bridge).with(RequestLog::new());
            registry.with(json_layer(&lines)).into()
        } else {
            let registry = registry.with(json_layer(&lines)).with(bridge);
            registry.with(RequestLog::new()).into()
        };
        tracing::dispatcher::with_default(&dispatch, || {
            info!("outside");
            let scope = scope("r1");
            scope.run(|| (0..3).for_each(|n| info!(n, "line")));
            let span = scope.run(|| info_span!("request"));
            span.in_scope(|| info!("of the span"));
        });
        let mut expected = vec![(Value::Null, Value::Null)];
        expected.extend(ids("r1", &[1, 2, 3, 4]));
        assert_eq!(lines.ids(), expected);
        assert_eq!(exported(&exporter), expected);
    }
}

#[test]
fn a_record_of_the_api_draws_a_number_of_its_own() {
    let (provider, exporter) = provider();
    let logger = provider.logger("direct");
    let lines = logged(|| {
        scope("r1").run(|| {
            info!("one");
            let mut record = logger.create_log_record();
            record.set_event_name("direct");
            logger.emit(record);
            logger.emit(logger.create_log_record());
            info!("four");
        });
        logger.emit(logger.create_log_record());
    });
    assert_eq!(lines.ids(), ids("r1", &[1, 4]));
    let mut expected = ids("r1", &[2, 3]);
    expected.push((Value::Null, Value::Null));
    assert_eq!(exported(&exporter), expected);
}
