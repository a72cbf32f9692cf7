//! The instruments: units and buckets.

use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};

use crate::names;

/// A first chunk may come from memory, or from a model that computes for a minute.
const FIRST_CHUNK: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0,
    60.0,
];
/// Chunks that are ready together are microseconds apart; those of an idle stream are seconds apart.
const BETWEEN_CHUNKS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 30.0,
];
/// From a short response to a stream of one hour.
const STREAM: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
];
/// The buckets that OpenTelemetry's convention recommends for `http.server.request.duration`.
const REQUEST: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// Powers of eight from 64 bytes to 1 GiB.
const BYTES: [f64; 10] = [
    0.0,
    64.0,
    512.0,
    4_096.0,
    32_768.0,
    262_144.0,
    2_097_152.0,
    16_777_216.0,
    134_217_728.0,
    1_073_741_824.0,
];

#[derive(Clone, Debug)]
pub(crate) struct Instruments {
    pub(crate) time_to_first_chunk: Histogram<f64>,
    pub(crate) chunk_gap: Histogram<f64>,
    pub(crate) producer_wait: Histogram<f64>,
    pub(crate) consumer_hold: Histogram<f64>,
    pub(crate) stream_duration: Histogram<f64>,
    pub(crate) stream_active: UpDownCounter<i64>,
    pub(crate) stream_count: Counter<u64>,
    pub(crate) heartbeats: Counter<u64>,
    pub(crate) body_size: Histogram<u64>,
    pub(crate) request_duration: Histogram<f64>,
    pub(crate) active_requests: UpDownCounter<i64>,
}

impl Instruments {
    pub(crate) fn new(meter: &Meter) -> Self {
        let seconds = |name, description, bounds: &[f64]| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .with_boundaries(bounds.to_vec())
                .build()
        };
        Self {
            time_to_first_chunk: seconds(
                names::TIME_TO_FIRST_CHUNK,
                "From the request to the first chunk of the response body.",
                &FIRST_CHUNK,
            ),
            chunk_gap: seconds(
                names::CHUNK_GAP,
                "From one chunk of a response body to the next.",
                &BETWEEN_CHUNKS,
            ),
            producer_wait: seconds(
                names::CHUNK_PRODUCER_WAIT,
                "How long the server waited for a chunk of a response body.",
                &BETWEEN_CHUNKS,
            ),
            consumer_hold: seconds(
                names::CHUNK_CONSUMER_HOLD,
                "How long after a chunk the server asked for the next one.",
                &BETWEEN_CHUNKS,
            ),
            stream_duration: seconds(
                names::STREAM_DURATION,
                "From the request to the end of the response body.",
                &STREAM,
            ),
            stream_active: meter
                .i64_up_down_counter(names::STREAM_ACTIVE)
                .with_unit("{stream}")
                .with_description("Responses whose body has not ended.")
                .build(),
            stream_count: meter
                .u64_counter(names::STREAM_COUNT)
                .with_unit("{stream}")
                .with_description("Responses that have ended, by how they ended.")
                .build(),
            heartbeats: meter
                .u64_counter(names::HEARTBEATS)
                .with_unit("{heartbeat}")
                .with_description("Heartbeats written into idle responses.")
                .build(),
            body_size: meter
                .u64_histogram(names::BODY_SIZE)
                .with_unit("By")
                .with_description("Data given out of a response body.")
                .with_boundaries(BYTES.to_vec())
                .build(),
            request_duration: seconds(
                names::REQUEST_DURATION,
                "Duration of HTTP server requests.",
                &REQUEST,
            ),
            active_requests: meter
                .i64_up_down_counter(names::ACTIVE_REQUESTS)
                .with_unit("{request}")
                .with_description("Number of active HTTP server requests.")
                .build(),
        }
    }
}
