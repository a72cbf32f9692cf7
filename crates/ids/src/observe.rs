//! OpenTelemetry instruments for the counters of the request id layer.

use opentelemetry::metrics::Meter;

use crate::RequestIdLayer;

impl RequestIdLayer {
    /// Registers the counter `http.server.request_id.replaced` on `meter`, an observable counter of
    /// [`RequestIdLayer::replaced`]. Call it once for all clones of a layer.
    ///
    /// ```
    /// use tower_stream_ids::RequestIdLayer;
    ///
    /// let layer = RequestIdLayer::new();
    /// layer.observe(&opentelemetry::global::meter("my-service"));
    /// ```
    pub fn observe(&self, meter: &Meter) {
        let layer = self.clone();
        meter
            .u64_observable_counter("http.server.request_id.replaced")
            .with_unit("{request}")
            .with_description("Inbound request ids that were not acceptable and were replaced.")
            .with_callback(move |instrument| instrument.observe(layer.replaced(), &[]))
            .build();
    }
}
