//! Layers that are put on at run time, in any order, and all that they tell.

use std::{collections::BTreeMap, time::Duration};

use axum::Router;
use e2e::{LogCapture, PATIENCE, TestServer, serve};
use http::{HeaderName, HeaderValue, header::CONTENT_LENGTH};
use opentelemetry::{
    metrics::MeterProvider,
    trace::{SpanKind, TracerProvider},
};
use opentelemetry_sdk::{
    metrics::{
        InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
        data::{AggregatedMetrics, MetricData},
    },
    trace::{InMemorySpanExporter, SdkTracer, SdkTracerProvider, SpanData},
};
use tower::retry::RetryLayer;
use tower_http::{
    compression::CompressionLayer, cors::CorsLayer, set_header::SetResponseHeaderLayer,
    timeout::ResponseBodyTimeoutLayer,
};
use tower_stream::{
    compress::{Coding, Settings},
    ids,
    metrics::names,
    prelude::*,
    resume,
};
use tracing::{level_filters::LevelFilter, subscriber::DefaultGuard};
use tracing_subscriber::{
    fmt::{self, format::FmtSpan},
    layer::SubscriberExt,
};

use crate::{
    endings::{self, Kind},
    log::Log,
    probe::{Ends, Probe, line},
    retry,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    RequestId,
    RequestSpan,
    Metrics,
    Drain,
    /// The limit around the breaker.
    Limit,
    Headers,
    Digest,
    Coalesce,
    Heartbeat,
    Errors,
    Farewell,
    ChunkSpan,
    Sequence,
    Verify,
    /// Not in [`Self::OURS`], because it changes the bytes, and because layers outside of it follow the reader and
    /// those inside the producer. See the module `resume`.
    Resume,
    // The layers from here on are tower-http's, if nothing else is said.
    Gzip,
    Timeout,
    Cors,
    SetHeader,
    /// Declares the length of a text that hangs: [`Kind::beginning`].
    SetLength,
    /// The retry layer of tower, which retries once after a 5xx.
    Retry,
    /// Two attempts at once: the first good response is sent on.
    Hedge,
}

impl Piece {
    /// In the recommended order.
    pub(crate) const OURS: [Self; 14] = [
        Self::RequestId,
        Self::RequestSpan,
        Self::Metrics,
        Self::Drain,
        Self::Limit,
        Self::Headers,
        Self::Digest,
        Self::Coalesce,
        Self::Heartbeat,
        Self::Errors,
        Self::Farewell,
        Self::ChunkSpan,
        Self::Sequence,
        Self::Verify,
    ];

    /// Changes the orders that cannot work.
    ///
    /// tower-http's compression leaves a digest of other bytes in head and trailers, so a check has to stand inside of it,
    /// as the documentation of `VerifyDigestLayer` says. A joined body is ready as a whole, so that a digest layer around
    /// it writes into the head, beside a digest of the handler: a check further outside refuses two that differ with 502.
    pub(crate) fn make_workable(pieces: &mut [Self]) {
        let place = |pieces: &[Self], piece| pieces.iter().position(|p| *p == piece);
        let of = |pieces: &[Self]| {
            let digests = (place(pieces, Self::Verify), place(pieces, Self::Digest));
            (
                place(pieces, Self::Gzip),
                digests,
                place(pieces, Self::Coalesce),
            )
        };
        if let (Some(gzip), (Some(verify), _), _) = of(pieces) {
            pieces[gzip.min(verify)] = Self::Gzip;
            pieces[gzip.max(verify)] = Self::Verify;
        }
        if let (_, (Some(verify), Some(digest)), Some(coalesce)) = of(pieces)
            && verify < digest
            && digest < coalesce
        {
            pieces.swap(digest, coalesce);
        }
    }

    pub(crate) const FOREIGN: [Self; 4] = [Self::Gzip, Self::Timeout, Self::Cors, Self::SetHeader];
}

/// Outermost first.
#[derive(Clone)]
pub(crate) struct Stack {
    pub(crate) pieces: Vec<Piece>,
    /// Whether a probe of the test is placed next to the handler. It notices what no layer further outside can notice.
    pub(crate) probed_inside: bool,
    /// Whether [`Piece::Gzip`] is ours, and not tower-http's.
    pub(crate) our_gzip: bool,
    /// What tower-http's timeout allows between two frames.
    pub(crate) timeout: Duration,
    /// The interval of heartbeats.
    pub(crate) heartbeat: Duration,
    /// The time limit of a tower-http timeout outside of all layers, the outer probe included.
    pub(crate) cut_outside: Option<Duration>,
    /// The seed of a random order.
    pub(crate) seed: Option<u64>,
}

impl Stack {
    pub(crate) fn new(pieces: impl Into<Vec<Piece>>) -> Self {
        Self {
            pieces: pieces.into(),
            probed_inside: true,
            our_gzip: false,
            timeout: PATIENCE,
            heartbeat: PATIENCE,
            cut_outside: None,
            seed: None,
        }
    }

    pub(crate) fn has(&self, piece: Piece) -> bool {
        self.pieces.contains(&piece)
    }

    /// Both are there, and `inner` is the inner one.
    pub(crate) fn is_inside(&self, inner: Piece, outer: Piece) -> bool {
        let place = |piece| self.pieces.iter().position(|p| *p == piece);
        matches!((place(inner), place(outer)), (Some(i), Some(o)) if i > o)
    }

    /// Events get ids, unless they are compressed already.
    pub(crate) fn stamps(&self, kind: Kind) -> bool {
        let compressed = self.is_inside(Piece::Gzip, Piece::Sequence);
        kind == Kind::Sse && self.has(Piece::Sequence) && !compressed
    }

    /// Whether the digest check sees the digest that the handler declared. Layers that add ids or heartbeats change the
    /// bytes, and remove the declared digest.
    pub(crate) fn verifies(&self, kind: Kind) -> bool {
        let stamped = self.stamps(kind) && self.is_inside(Piece::Sequence, Piece::Verify);
        let compressed = self.is_inside(Piece::Gzip, Piece::Heartbeat);
        let beats = kind == Kind::Sse && !compressed;
        let beaten = beats && self.is_inside(Piece::Heartbeat, Piece::Verify);
        self.has(Piece::Verify) && !stamped && !beaten
    }
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.pieces)?;
        f.write_str(if self.probed_inside { " + probe" } else { "" })?;
        f.write_str(if self.our_gzip { ", Gzip is ours" } else { "" })?;
        self.seed
            .map_or(Ok(()), |seed| write!(f, ", ORDER_SEED={seed}"))
    }
}

/// The spans, metrics and log lines of one test. The test runs on one thread, whose subscriber this sets.
pub(crate) struct Telemetry {
    spans: InMemorySpanExporter,
    tracers: SdkTracerProvider,
    metrics: InMemoryMetricExporter,
    meters: SdkMeterProvider,
    log: LogCapture,
    _default: DefaultGuard,
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        crate::silence_scripted_panics();
        let spans = InMemorySpanExporter::default();
        let tracers = SdkTracerProvider::builder()
            .with_simple_exporter(spans.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(tracers.tracer("requests"));
        let log = LogCapture::default();
        let lines = fmt::layer()
            .json()
            .with_span_events(FmtSpan::CLOSE)
            .event_format(ids::log::WithIds::json(fmt::format().json()))
            .with_writer(log.clone());
        // The filter removes the spans of hyper and h2, whose level is below INFO.
        let subscriber = tracing_subscriber::registry()
            .with(LevelFilter::INFO)
            .with(layer)
            .with(lines);
        let metrics = InMemoryMetricExporter::default();
        // Longer than any test: an export by the clock, beside one that is asked for, would be counted twice.
        let reader = PeriodicReader::builder(metrics.clone())
            .with_interval(Duration::from_secs(86_400))
            .build();
        Self {
            spans,
            tracers,
            metrics,
            meters: SdkMeterProvider::builder().with_reader(reader).build(),
            log,
            _default: tracing::subscriber::set_default(subscriber),
        }
    }

    pub(crate) fn meter(&self) -> opentelemetry::metrics::Meter {
        self.meters.meter("order")
    }

    pub(crate) fn tracer(&self) -> SdkTracer {
        self.tracers.tracer("chunks")
    }

    /// What the request spans that have ended since the last call say.
    pub(crate) fn spans(&self) -> Vec<String> {
        let spans = self.spans.get_finished_spans().expect("not shut down");
        self.spans.reset();
        let requests = spans
            .iter()
            .filter(|span| span.span_kind == SpanKind::Server);
        let told = requests.map(|span| {
            let value = |key: &str| {
                let found = span.attributes.iter().find(|kv| kv.key.as_str() == key);
                found.map_or(String::new(), |kv| kv.value.as_str().into_owned())
            };
            line(&value("stream.outcome"), &value("error.type"))
        });
        told.collect()
    }

    /// All spans that have ended.
    pub(crate) fn finished_spans(&self) -> Vec<SpanData> {
        self.spans.get_finished_spans().expect("not shut down")
    }

    /// How many values a histogram of seconds has taken.
    pub(crate) fn measured(&self, name: &str) -> u64 {
        self.metrics.reset();
        self.meters.force_flush().expect("not shut down");
        let exported = self.metrics.get_finished_metrics().expect("not shut down");
        let metrics = exported
            .iter()
            .flat_map(|resource| resource.scope_metrics())
            .flat_map(|scope| scope.metrics())
            .filter(|metric| metric.name() == name);
        let counts = metrics.map(|metric| -> u64 {
            match metric.data() {
                AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                    histogram.data_points().map(|point| point.count()).sum()
                }
                other => panic!("{name} is no histogram: {other:?}"),
            }
        });
        counts.sum()
    }

    /// What was logged since the last call.
    pub(crate) fn log(&self) -> Log {
        Log::new(self.log.take_json())
    }

    /// The sums of a counter since the test began, by route, outcome and error type as far as there are any.
    pub(crate) fn sums(&self, name: &str) -> BTreeMap<String, i64> {
        self.metrics.reset();
        self.meters.force_flush().expect("not shut down");
        let exported = self.metrics.get_finished_metrics().expect("not shut down");
        let metrics = exported
            .iter()
            .flat_map(|resource| resource.scope_metrics())
            .flat_map(|scope| scope.metrics())
            .filter(|metric| metric.name() == name);
        let mut sums = BTreeMap::new();
        for metric in metrics {
            let mut add = |attributes: Vec<&opentelemetry::KeyValue>, value| {
                let values: Vec<_> = [names::ROUTE, names::OUTCOME, names::ERROR_TYPE]
                    .iter()
                    .filter_map(|name| attributes.iter().find(|kv| kv.key.as_str() == *name))
                    .map(|kv| kv.value.to_string())
                    .collect();
                *sums.entry(values.join(" ")).or_default() += value;
            };
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
                    .data_points()
                    .for_each(|p| add(p.attributes().collect(), p.value().cast_signed())),
                AggregatedMetrics::I64(MetricData::Sum(sum)) => sum
                    .data_points()
                    .for_each(|p| add(p.attributes().collect(), p.value())),
                other => panic!("{name} is no counter: {other:?}"),
            }
        }
        sums
    }
}

/// A server with a stack, and what its layers and probes told.
pub(crate) struct Served {
    pub(crate) server: TestServer,
    pub(crate) drain: Drain,
    pub(crate) limit: StreamLimitLayer,
    pub(crate) stack: Stack,
    pub(crate) outside: Ends,
    pub(crate) inside: Ends,
    /// What the digest layer says of bodies that it hashed.
    pub(crate) hashed: Ends,
}

impl Served {
    pub(crate) async fn start(stack: Stack, telemetry: &Telemetry) -> Self {
        Self::serving(endings::routes(), stack, telemetry).await
    }

    pub(crate) async fn serving(mut app: Router, stack: Stack, telemetry: &Telemetry) -> Self {
        let drain = Drain::builder()
            .advertise(Duration::ZERO)
            .deadline(PATIENCE)
            .build();
        let limit = StreamLimitLayer::new().streams(64);
        let [outside, inside, hashed] = [(); 3].map(|()| Ends::default());
        if stack.probed_inside {
            app = app.layer(Probe(inside.clone()));
        }
        for piece in stack.pieces.iter().rev() {
            app = apply(*piece, app, &stack, telemetry, (&drain, &limit), &hashed);
        }
        app = app.layer(Probe(outside.clone()));
        if let Some(timeout) = stack.cut_outside {
            app = app.layer(ResponseBodyTimeoutLayer::new(timeout));
        }
        let server = serve(app).await;
        Self {
            server: server.expect("a free port"),
            drain,
            limit,
            stack,
            outside,
            inside,
            hashed,
        }
    }
}

fn apply(
    piece: Piece,
    app: Router,
    stack: &Stack,
    telemetry: &Telemetry,
    (drain, limit): (&Drain, &StreamLimitLayer),
    hashed: &Ends,
) -> Router {
    match piece {
        Piece::RequestId => app.layer(RequestIdLayer::new()),
        Piece::RequestSpan => app.layer(RequestSpanLayer::new()),
        Piece::Metrics => app.layer(StreamMetricsLayer::new(&telemetry.meter())),
        Piece::Drain => app.layer(drain.layer()),
        Piece::Limit => app
            .layer(BreakerLayer::new().minimum(u32::MAX))
            .layer(limit.clone()),
        Piece::Headers => app.layer(StreamHeadersLayer::new()),
        Piece::Digest => {
            let hashed = hashed.clone();
            app.layer(DigestLayer::md5().on_sent(move |sent| hashed.push(&sent.end)))
        }
        Piece::Coalesce => app.layer(CoalesceLayer::new()),
        Piece::Heartbeat => app.layer(HeartbeatLayer::new().interval(stack.heartbeat)),
        Piece::Errors => app.layer(ErrorWriterLayer::new()),
        Piece::Farewell => app.layer(drain.farewell()),
        Piece::ChunkSpan => app.layer(ChunkSpanLayer::new(telemetry.tracer())),
        Piece::Sequence => app.layer(SequenceLayer::new()),
        Piece::Verify => app.layer(VerifyDigestLayer::md5()),
        Piece::Resume => {
            let resume = Resume::builder(resume::Memory::new()).build();
            app.layer(resume.layer())
        }
        Piece::Gzip if stack.our_gzip => {
            let gzip = Settings::on().codings([(Coding::Gzip, 6)]);
            app.layer(CompressLayer::new().settings(gzip))
        }
        Piece::Gzip => app.layer(
            CompressionLayer::new()
                .gzip(true)
                .compress_when(|_, _, _: &_, _: &_| true),
        ),
        Piece::Timeout => app.layer(ResponseBodyTimeoutLayer::new(stack.timeout)),
        Piece::Cors => app.layer(CorsLayer::permissive()),
        Piece::SetHeader => app.layer(SetResponseHeaderLayer::overriding(
            HeaderName::from_static("x-foreign"),
            HeaderValue::from_static("1"),
        )),
        Piece::SetLength => app.layer(SetResponseHeaderLayer::overriding(
            CONTENT_LENGTH,
            HeaderValue::from(Kind::Text.beginning().len()),
        )),
        Piece::Retry => app.layer(RetryLayer::new(retry::Once)),
        Piece::Hedge => app.layer(axum::middleware::from_fn(retry::hedge)),
    }
}
