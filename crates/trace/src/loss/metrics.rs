//! OpenTelemetry instruments for the counts.

use opentelemetry::{KeyValue, metrics::Meter};

use super::Loss;

impl Loss {
    /// Registers the counts as observable instruments, which are read at each collection:
    ///
    /// | instrument | kind | attributes |
    /// |---|---|---|
    /// | `http.server.span.emitted` | counter `{span}` | |
    /// | `http.server.span.exported` | counter `{span}` | |
    /// | `http.server.span.dropped` | counter `{span}` | `reason` = `queue_full`, `export_failed`, `shutdown` |
    /// | `http.server.span.in_queue` | up-down counter `{span}` | |
    pub fn observe(&self, meter: &Meter) {
        let loss = self.clone();
        meter
            .u64_observable_counter("http.server.span.emitted")
            .with_description("Sampled spans that ended.")
            .with_unit("{span}")
            .with_callback(move |seen| seen.observe(loss.counts().emitted, &[]))
            .build();
        let loss = self.clone();
        meter
            .u64_observable_counter("http.server.span.exported")
            .with_description("Spans that the exporter has taken.")
            .with_unit("{span}")
            .with_callback(move |seen| seen.observe(loss.counts().exported, &[]))
            .build();
        let loss = self.clone();
        meter
            .u64_observable_counter("http.server.span.dropped")
            .with_description("Spans that were lost before or in the exporter.")
            .with_unit("{span}")
            .with_callback(move |seen| {
                let counts = loss.counts();
                for (reason, dropped) in [
                    ("queue_full", counts.dropped_queue_full),
                    ("export_failed", counts.dropped_export_failed),
                    ("shutdown", counts.dropped_shutdown),
                ] {
                    seen.observe(dropped, &[KeyValue::new("reason", reason)]);
                }
            })
            .build();
        let loss = self.clone();
        meter
            .i64_observable_up_down_counter("http.server.span.in_queue")
            .with_description("Spans that wait for the exporter, or are being exported.")
            .with_unit("{span}")
            .with_callback(move |seen| {
                let waiting = i64::try_from(loss.counts().in_queue).unwrap_or(i64::MAX);
                seen.observe(waiting, &[]);
            })
            .build();
    }
}
