//! Cost of tracing a stream per frame, compared with tower-http's `Trace` and with a tracing span for each chunk.
//!
//! `cargo bench -p tower-stream-trace --features otlp`; the last lines are the ratios of this run and the allocations of
//! a frame. Times are of the CPU of the thread that polls; the batch thread's is not in them. The counting allocator
//! makes each allocation a little dearer, for every candidate alike.
#![allow(missing_docs, clippy::print_stdout)]

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Empty;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter},
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, layer::layer_fn};
use tower_http::trace::TraceLayer;
use tower_stream_bench_support::{CpuTime, Frames, Group, consume};
use tower_stream_trace::{
    ChunkSelection, ChunkSpanLayer, RequestSpanLayer,
    loss::{BatchOptions, Loss, batch},
    pipeline,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{layer::SubscriberExt, registry::Registry};

const FRAMES: u32 = 10_000;
const QUIET: &str = "10000 frames, nothing listens";
const UNSAMPLED: &str = "10000 frames, unsampled";
const SAMPLED: &str = "10000 frames, sampled";
const DEFAULTS: &str = "RequestSpan, tracing-opentelemetry's defaults";
const TRACING_DEFAULTS: &str = "a tracing span a chunk, tracing-opentelemetry's defaults";

type Req = Request<Empty<Bytes>>;

/// A handler that responds with ten thousand ready frames.
#[derive(Clone, Copy)]
struct Answer;

impl Service<Req> for Answer {
    type Response = Response<Frames>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Frames>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Req) -> Self::Future {
        ready(Ok(Response::new(Frames::new(
            &[b'x'; 64][..],
            FRAMES as usize,
        ))))
    }
}

/// One request through the layer, and its whole body.
fn run<L, B>(layer: &L) -> usize
where
    L: Layer<Answer>,
    L::Service: Service<Req, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let future = pin!(layer.layer(Answer).oneshot(Request::new(Empty::new())));
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(response)) => consume(pin!(response.into_body())),
        Poll::Pending => panic!("it is always ready"),
    }
}

fn bench<L, B>(group: &mut BenchmarkGroup<'_, CpuTime>, name: &str, layer: &L)
where
    L: Layer<Answer>,
    L::Service: Service<Req, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    run(layer);
    let allocated = allocation_counter::measure(|| _ = run(layer));
    let allocations = allocated.count_total as f64 / f64::from(FRAMES);
    println!("{name}: {allocations:.2} allocations a frame");
    group.bench_function(name, |b| b.iter(|| run(layer)));
}

/// A batch processor whose exporter never slows it down, and its counts.
fn provider(sampler: Sampler) -> (SdkTracerProvider, Loss) {
    #[derive(Debug)]
    struct Discard;
    impl SpanExporter for Discard {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            Ok(())
        }
    }
    let options = BatchOptions {
        max_queue_size: 1 << 17,
        max_export_batch_size: 4096,
        ..BatchOptions::default()
    };
    let (processor, loss) = batch(Discard, options);
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler)
        .with_span_processor(processor)
        .build();
    (provider, loss)
}

fn under(layer: OpenTelemetryLayer<Registry, SdkTracer>, run: impl FnOnce()) {
    tracing::subscriber::with_default(Registry::default().with(layer), run);
}

fn ours(
    tracer: SdkTracer,
    selection: ChunkSelection,
) -> ServiceBuilder<
    tower::layer::util::Stack<
        ChunkSpanLayer,
        tower::layer::util::Stack<RequestSpanLayer, tower::layer::util::Identity>,
    >,
> {
    ServiceBuilder::new()
        .layer(RequestSpanLayer::new())
        .layer(ChunkSpanLayer::new(tracer).select(selection))
}

fn quiet(c: &mut Criterion<CpuTime>) {
    let (provider, _) = provider(Sampler::AlwaysOn);
    let mut group = c.benchmark_group(QUIET);
    group.throughput(Throughput::Elements(FRAMES.into()));
    bench(&mut group, "bare", &ServiceBuilder::new());
    bench(&mut group, "tower-http Trace", &TraceLayer::new_for_http());
    bench(
        &mut group,
        "ChunkSpan",
        &ChunkSpanLayer::new(provider.tracer("chunks")),
    );
    bench(&mut group, "RequestSpan", &RequestSpanLayer::new());
    let both = ours(provider.tracer("chunks"), ChunkSelection::all());
    bench(&mut group, "RequestSpan + ChunkSpan", &both);
    group.finish();
}

fn unsampled(c: &mut Criterion<CpuTime>) {
    let (provider, _) = provider(Sampler::AlwaysOff);
    let tracer = || provider.tracer("bench");
    let mut group = c.benchmark_group(UNSAMPLED);
    group.throughput(Throughput::Elements(FRAMES.into()));
    bench(&mut group, "bare", &ServiceBuilder::new());
    under(pipeline::lean(tracer()), || {
        bench(&mut group, "tower-http Trace", &TraceLayer::new_for_http());
        bench(&mut group, "RequestSpan", &RequestSpanLayer::new());
        let both = ours(tracer(), ChunkSelection::all());
        bench(&mut group, "RequestSpan + ChunkSpan", &both);
    });
    under(OpenTelemetryLayer::new(tracer()), || {
        bench(&mut group, DEFAULTS, &RequestSpanLayer::new());
    });
    group.finish();
}

fn sampled(c: &mut Criterion<CpuTime>) {
    let (provider, loss) = provider(Sampler::AlwaysOn);
    let tracer = || provider.tracer("bench");
    let mut group = c.benchmark_group(SAMPLED);
    group.throughput(Throughput::Elements(FRAMES.into()));
    // Long pauses between samples, so that the batch thread keeps up.
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(8));
    bench(&mut group, "bare", &ServiceBuilder::new());
    under(pipeline::lean(tracer()), || {
        bench(&mut group, "tower-http Trace", &TraceLayer::new_for_http());
        bench(&mut group, "RequestSpan", &RequestSpanLayer::new());
        let some = ours(tracer(), ChunkSelection::default());
        bench(&mut group, "ChunkSpan, default selection", &some);
        let all = ours(tracer(), ChunkSelection::all());
        bench(&mut group, "ChunkSpan, all", &all);
        let layers = ServiceBuilder::new()
            .layer(RequestSpanLayer::new())
            .layer(layer_fn(TracingSpans));
        bench(&mut group, "a tracing span a chunk", &layers);
    });
    under(OpenTelemetryLayer::new(tracer()), || {
        bench(&mut group, DEFAULTS, &RequestSpanLayer::new());
        let layers = ServiceBuilder::new()
            .layer(RequestSpanLayer::new())
            .layer(layer_fn(TracingSpans));
        bench(&mut group, TRACING_DEFAULTS, &layers);
    });
    group.finish();
    let _ = provider.force_flush();
    println!("{:?}", loss.counts());
}

/// The alternative without [`ChunkSpanLayer`]: a tracing span for each chunk, with the same attributes.
#[derive(Clone)]
struct TracingSpans<S>(S);

impl<S: Service<Req, Response = Response<Frames>, Error = Infallible>> Service<Req>
    for TracingSpans<S>
where
    S::Future: Send + 'static,
{
    type Response = Response<TracingBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<TracingBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let response = self.0.call(request);
        Box::pin(async move {
            let body = |inner| TracingBody {
                inner,
                index: 0,
                stream: "0123456789abcdef0123456789abcdef",
            };
            Ok(response.await?.map(body))
        })
    }
}

struct TracingBody {
    inner: Frames,
    index: i64,
    stream: &'static str,
}

impl Body for TracingBody {
    type Data = Bytes;
    type Error = <Frames as Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let span = tracing::info_span!(
            "http.server.response.chunk",
            chunk.index = this.index,
            chunk.length = tracing::field::Empty,
            chunk.producer_wait = tracing::field::Empty,
            chunk.consumer_hold = 0.0,
            stream.id = this.stream,
        );
        let asked = tokio::time::Instant::now();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            record(&span, frame, asked);
            this.index += 1;
        }
        polled
    }
}

fn record(span: &Span, frame: &Frame<Bytes>, asked: tokio::time::Instant) {
    tracing::record_all!(
        span,
        chunk.length = frame.data_ref().map_or(0, |data| data.len() as i64),
        chunk.producer_wait = asked.elapsed().as_secs_f64(),
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = quiet, unsampled, sampled
}

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    let print = |group: &str, base: &str, functions: &[&str]| {
        println!("\n{group}");
        Group::new(group).print_over(base, functions, FRAMES, "frame");
    };
    print(
        QUIET,
        "bare",
        &[
            "tower-http Trace",
            "ChunkSpan",
            "RequestSpan",
            "RequestSpan + ChunkSpan",
        ],
    );
    let unsampled = [
        "tower-http Trace",
        "RequestSpan",
        "RequestSpan + ChunkSpan",
        DEFAULTS,
    ];
    print(UNSAMPLED, "bare", &unsampled);
    print(SAMPLED, "bare", &["tower-http Trace", "RequestSpan"]);
    let chunks = [
        "ChunkSpan, default selection",
        "ChunkSpan, all",
        "a tracing span a chunk",
    ];
    print(SAMPLED, "RequestSpan", &chunks);
    let sampled = Group::new(SAMPLED);
    let over = |name, base| Some(sampled.median(name)? - sampled.median(base)?);
    let ours = over("ChunkSpan, all", "RequestSpan");
    for (name, base) in [
        ("a tracing span a chunk", "RequestSpan"),
        (TRACING_DEFAULTS, DEFAULTS),
    ] {
        if let (Some(ours), Some(theirs)) = (ours, over(name, base)) {
            println!(
                "{name}: {:.0} ns over its request span, {:.1}x of ours",
                theirs / f64::from(FRAMES),
                theirs / ours
            );
        }
    }
}
