//! OpenTelemetry instruments for the counters of the compression.

use opentelemetry::{KeyValue, metrics::Meter};

use crate::CompressionSwitch;

impl CompressionSwitch {
    /// Registers the counters of the layer on `meter`. Call it once for each layer.
    ///
    /// | instrument | kind | attributes |
    /// |---|---|---|
    /// | `http.server.compression.active` | up-down counter `{response}`: compressed responses that have not ended | |
    /// | `http.server.compression.memory` | up-down counter `By`: reserved for their encoders | |
    /// | `http.server.compression.responses` | counter `{response}` | `compression.coding`: `gzip`, `br`, `zstd` |
    /// | `http.server.compression.over_memory` | counter `{response}`: sent uncompressed because of the bound on memory | |
    /// | `http.server.compression.size` | counter `By`, of ended responses | `compression.side`: `before`, `after` |
    ///
    /// They are observable instruments, which cost nothing between collections.
    ///
    /// ```
    /// use tower_stream_compress::CompressLayer;
    ///
    /// let compression = CompressLayer::new();
    /// compression.switch().observe(&opentelemetry::global::meter("my-service"));
    /// ```
    pub fn observe(&self, meter: &Meter) {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let switch = self.clone();
        meter
            .i64_observable_up_down_counter("http.server.compression.active")
            .with_unit("{response}")
            .with_description("Compressed responses that have not ended.")
            .with_callback(move |instrument| {
                instrument.observe(signed(switch.stats().streams), &[]);
            })
            .build();
        let switch = self.clone();
        meter
            .i64_observable_up_down_counter("http.server.compression.memory")
            .with_unit("By")
            .with_description("Memory that is reserved for encoders.")
            .with_callback(move |instrument| {
                instrument.observe(signed(switch.stats().memory as u64), &[]);
            })
            .build();
        let switch = self.clone();
        meter
            .u64_observable_counter("http.server.compression.responses")
            .with_unit("{response}")
            .with_description("Responses that were compressed.")
            .with_callback(move |instrument| {
                for (coding, count) in switch.stats().compressed {
                    let coding = KeyValue::new("compression.coding", coding.as_str());
                    instrument.observe(count, &[coding]);
                }
            })
            .build();
        let switch = self.clone();
        meter
            .u64_observable_counter("http.server.compression.over_memory")
            .with_unit("{response}")
            .with_description("Responses that were not compressed because of the bound on memory.")
            .with_callback(move |instrument| {
                instrument.observe(switch.stats().over_memory, &[]);
            })
            .build();
        let switch = self.clone();
        meter
            .u64_observable_counter("http.server.compression.size")
            .with_unit("By")
            .with_description("Bytes of ended responses, before and after compression.")
            .with_callback(move |instrument| {
                let stats = switch.stats();
                for (side, bytes) in [
                    ("before", stats.plain_bytes),
                    ("after", stats.encoded_bytes),
                ] {
                    instrument.observe(bytes, &[KeyValue::new("compression.side", side)]);
                }
            })
            .build();
    }
}
