//! The layers of each candidate.

use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use tower::{ServiceBuilder, layer::util::Identity};
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    trace::TraceLayer,
};
use tower_stream::{
    StreamStack,
    coalesce::CoalesceLayer,
    digest::DigestLayer,
    drain::Drain,
    errors::ErrorWriterLayer,
    headers::StreamHeadersLayer,
    heartbeat::HeartbeatLayer,
    ids::{RequestIdLayer, SequenceLayer},
    metrics::StreamMetricsLayer,
    trace::{ChunkSelection, ChunkSpanLayer, RequestSpanLayer},
};

use super::{Candidate, Listener, Shape};

pub(crate) const BARE: &str = "bare";
pub(crate) const PEER: &str = "tower-http's three";
/// The candidates that the goals are about.
pub(crate) const SIX: &str = "our six";

/// Every candidate with this `listener`, `bare` first.
pub(crate) fn candidates(listener: Listener, shape: Shape) -> Vec<Candidate> {
    let drain = Drain::builder().build();
    let meter = SdkMeterProvider::builder()
        .with_reader(PeriodicReader::builder(InMemoryMetricExporter::default()).build())
        .build()
        .meter("bench");
    let chunks = || ChunkSpanLayer::new(listener.tracer());
    let some = StreamStack::new()
        .headers(StreamHeadersLayer::off())
        .drain(&drain)
        .chunk_span(chunks());
    let all = some
        .clone()
        .headers(StreamHeadersLayer::new())
        .heartbeat(HeartbeatLayer::new())
        .metrics(StreamMetricsLayer::new(&meter))
        .sequence(SequenceLayer::new())
        .digest(DigestLayer::md5());
    macro_rules! candidates {
        ($($name:expr => $layer:expr,)*) => {
            vec![$(Candidate::new($name, &$layer, shape.handler())),*]
        };
    }
    let mut found = candidates! {
        BARE => Identity::new(),
        PEER => ServiceBuilder::new()
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(TraceLayer::new_for_http())
            .layer(CatchPanicLayer::new())
            .layer(PropagateRequestIdLayer::x_request_id()),
        SIX => ServiceBuilder::new()
            .layer(RequestIdLayer::new())
            .layer(RequestSpanLayer::new())
            .layer(drain.layer())
            .layer(ErrorWriterLayer::new())
            .layer(drain.farewell())
            .layer(chunks()),
        "StreamStack, the same six on" => some,
        "RequestId" => RequestIdLayer::new(),
        "RequestSpan" => RequestSpanLayer::new(),
        "Drain" => drain.layer(),
        "StreamHeaders" => StreamHeadersLayer::new(),
        "Coalesce" => CoalesceLayer::new(),
        "Heartbeat" => HeartbeatLayer::new(),
        "ErrorWriter" => ErrorWriterLayer::new(),
        "Farewell" => drain.farewell(),
        "RequestSpan + ChunkSpan" => ServiceBuilder::new().layer(RequestSpanLayer::new()).layer(chunks()),
        "Metrics" => StreamMetricsLayer::new(&meter),
        "Sequence" => SequenceLayer::new(),
        "Digest, MD5" => DigestLayer::md5(),
        "StreamStack, everything on" => all,
    };
    if listener == Listener::Sampled {
        let every = ChunkSpanLayer::new(listener.tracer()).select(ChunkSelection::all());
        found.push(Candidate::new(
            "RequestSpan + ChunkSpan, every chunk",
            &ServiceBuilder::new()
                .layer(RequestSpanLayer::new())
                .layer(every),
            shape.handler(),
        ));
    }
    found
}
