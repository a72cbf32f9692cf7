//! OpenTelemetry instruments for the layers' counters.

use opentelemetry::{KeyValue, metrics::Meter};

use crate::{DigestLayer, Verdict, VerifyDigestLayer};

impl DigestLayer {
    /// Registers the counter `http.server.response.digest.announced` on `meter`, an observable counter of
    /// [`DigestLayer::placements`]. Call it once for all clones of a layer.
    ///
    /// Its attribute `digest.placement` is `header`, `trailer` or `unannounced`.
    ///
    /// ```
    /// use tower_stream_digest::DigestLayer;
    ///
    /// let layer = DigestLayer::md5();
    /// layer.observe(&opentelemetry::global::meter("my-service"));
    /// ```
    pub fn observe(&self, meter: &Meter) {
        let layer = self.clone();
        let read = move || {
            let placements = layer.placements();
            [
                ("header", placements.header),
                ("trailer", placements.trailer),
                ("unannounced", placements.unannounced),
            ]
        };
        count(
            meter,
            "http.server.response.digest.announced",
            "Digests of what was sent, by where they were announced.",
            "digest.placement",
            read,
        );
    }
}

impl VerifyDigestLayer {
    /// Registers the counter `http.server.response.digest.count` on `meter`: an observable counter of bodies with a
    /// declared digest. Call it once for all clones of a layer.
    ///
    /// The attribute `digest.outcome` is [`Verdict::as_str`]. Every outcome is exported from the start, with the value
    /// 0, so that the first mismatch shows as an increase.
    ///
    /// ```
    /// use tower_stream_digest::VerifyDigestLayer;
    ///
    /// let layer = VerifyDigestLayer::md5();
    /// layer.observe(&opentelemetry::global::meter("my-service"));
    /// ```
    pub fn observe(&self, meter: &Meter) {
        let counts = self.counts();
        count(
            meter,
            "http.server.response.digest.count",
            "Digests of bodies, by what came of them.",
            "digest.outcome",
            move || Verdict::LABELS.into_iter().zip(counts.read()),
        );
    }
}

fn count<F, I>(
    meter: &Meter,
    name: &'static str,
    description: &'static str,
    attribute: &'static str,
    read: F,
) where
    F: Fn() -> I + Send + Sync + 'static,
    I: IntoIterator<Item = (&'static str, u64)>,
{
    meter
        .u64_observable_counter(name)
        .with_unit("{digest}")
        .with_description(description)
        .with_callback(move |instrument| {
            for (value, count) in read() {
                instrument.observe(count, &[KeyValue::new(attribute, value)]);
            }
        })
        .build();
}
