//! OpenTelemetry instruments for the figures of limits and breakers.

use opentelemetry::{KeyValue, metrics::Meter};

use crate::{BreakerLayer, StreamLimitLayer, refusal::Reason};

impl StreamLimitLayer {
    /// Registers the figures of the limit on `meter`. Call it once for all clones of a layer.
    ///
    /// | instrument | kind | attributes |
    /// |---|---|---|
    /// | `http.server.limit.in_use` | up-down counter `{stream}` | |
    /// | `http.server.limit.waiting` | up-down counter `{request}` | |
    /// | `http.server.limit.streams` | gauge `{stream}`: the limit for all, if there is one | |
    /// | `http.server.limit.awaited` | gauge `{stream}`: the adaptive limit, if there is one | |
    /// | `http.server.limit.refused` | counter `{request}` | `limit.reason`: `streams`, `key`, `rate` |
    ///
    /// They are observable instruments, which cost nothing between collections.
    ///
    /// ```
    /// use tower_stream_limit::StreamLimitLayer;
    ///
    /// let limit = StreamLimitLayer::new().streams(100);
    /// limit.observe(&opentelemetry::global::meter("my-service"));
    /// ```
    pub fn observe(&self, meter: &Meter) {
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let layer = self.clone();
        meter
            .i64_observable_up_down_counter("http.server.limit.in_use")
            .with_unit("{stream}")
            .with_description("Streams that have a permit of the limit.")
            .with_callback(move |instrument| instrument.observe(number(layer.stats().in_use), &[]))
            .build();
        let layer = self.clone();
        meter
            .i64_observable_up_down_counter("http.server.limit.waiting")
            .with_unit("{request}")
            .with_description("Requests that wait for a permit of the limit for all.")
            .with_callback(move |instrument| instrument.observe(number(layer.stats().waiting), &[]))
            .build();
        let limited = self.limit.as_ref();
        if limited.is_some_and(|limit| limit.gradient.is_some()) {
            let layer = self.clone();
            meter
                .i64_observable_gauge("http.server.limit.awaited")
                .with_unit("{stream}")
                .with_description("The most streams at once whose first chunk is awaited.")
                .with_callback(move |instrument| {
                    instrument.observe(number(layer.stats().adaptive_limit), &[]);
                })
                .build();
        }
        if limited.is_some_and(|limit| limit.config.streams.is_some()) {
            let layer = self.clone();
            meter
                .i64_observable_gauge("http.server.limit.streams")
                .with_unit("{stream}")
                .with_description("The most streams at once.")
                .with_callback(move |instrument| {
                    instrument.observe(number(layer.stats().limit), &[]);
                })
                .build();
        }
        let layer = self.clone();
        meter
            .u64_observable_counter("http.server.limit.refused")
            .with_unit("{request}")
            .with_description("Requests that the limit refused.")
            .with_callback(move |instrument| {
                let stats = layer.stats();
                for (reason, count) in [
                    (Reason::Streams, stats.refused_streams),
                    (Reason::Key, stats.refused_key),
                    (Reason::Rate, stats.refused_rate),
                ] {
                    let reason = KeyValue::new("limit.reason", reason.as_str());
                    instrument.observe(count, &[reason]);
                }
            })
            .build();
    }
}

impl BreakerLayer {
    /// Registers the figures of the breaker on `meter`. Call it once for all clones of a layer.
    ///
    /// | instrument | kind | attributes |
    /// |---|---|---|
    /// | `http.server.breaker.circuits` | gauge: number of circuits in each state | `breaker.name`, `breaker.state`: `closed`, `open`, `half_open` |
    /// | `http.server.breaker.refused` | counter `{request}` | `breaker.name` |
    ///
    /// They are observable instruments, which cost nothing between collections.
    ///
    /// ```
    /// use tower_stream_limit::BreakerLayer;
    ///
    /// let breaker = BreakerLayer::new().name("model");
    /// breaker.observe(&opentelemetry::global::meter("my-service"));
    /// ```
    pub fn observe(&self, meter: &Meter) {
        let name = || KeyValue::new("breaker.name", self.get_name());
        let (layer, of) = (self.clone(), name());
        meter
            .u64_observable_gauge("http.server.breaker.circuits")
            .with_unit("{circuit}")
            .with_description("Circuits in each state.")
            .with_callback(move |instrument| {
                let stats = layer.stats();
                for (state, count) in [
                    ("closed", stats.closed),
                    ("open", stats.open),
                    ("half_open", stats.half_open),
                ] {
                    let attributes = [of.clone(), KeyValue::new("breaker.state", state)];
                    instrument.observe(count as u64, &attributes);
                }
            })
            .build();
        let (layer, of) = (self.clone(), name());
        meter
            .u64_observable_counter("http.server.breaker.refused")
            .with_unit("{request}")
            .with_description("Requests that the breaker refused.")
            .with_callback(move |instrument| {
                instrument.observe(layer.stats().refused, std::slice::from_ref(&of));
            })
            .build();
    }
}
