//! One server of `tests/peers/run` and `tests/instructions/run`: the same handler without layers, with tower-http's
//! layers, with ours, or with a single one of ours.

mod events;
mod nothing;

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{
        HeaderName, HeaderValue,
        header::{CACHE_CONTROL, HOST, X_CONTENT_TYPE_OPTIONS},
    },
    routing::get,
    serve::ListenerExt,
};
use clap::{Parser, ValueEnum};
use opentelemetry::{global, trace::TracerProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, util::MapRequestLayer};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{CompressionLayer, predicate::SizeAbove},
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    set_header::SetResponseHeaderLayer,
    trace::TraceLayer,
};
use tower_stream::{
    StreamStack,
    coalesce::CoalesceLayer,
    compress::CompressLayer,
    core::Dialect,
    digest::{DigestLayer, VerifyDigestLayer},
    drain::Drain,
    errors::{DialectLayer, ErrorWriterLayer, IdleTimeoutLayer},
    headers::StreamHeadersLayer,
    heartbeat::HeartbeatLayer,
    ids::{RequestIdLayer, SequenceLayer},
    limit::{Adaptive, BreakerLayer, KeyBy, Rate, StreamLimitLayer},
    metrics::StreamMetricsLayer,
    resume::{Memory, Resume},
    serve,
    trace::{ChunkSpanLayer, RequestSpanLayer},
};
use tracing_subscriber::layer::SubscriberExt;

/// Serves `GET /events?count=&bytes=&interval_ms=` and prints its address.
#[derive(Debug, Parser)]
struct Args {
    /// The layers around the handler
    #[arg(value_enum)]
    layers: Layers,

    /// The subscriber for spans: none, or tracing-opentelemetry with a sampler that samples nothing
    #[arg(long, value_enum, default_value_t = Subscriber::None)]
    subscriber: Subscriber,

    /// Serve with `tower_stream::serve` instead of `axum::serve`
    #[arg(long)]
    drain_serve: bool,

    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Layers {
    /// The router alone
    Bare,
    /// `SetRequestId`, `PropagateRequestId`, `Trace`, `CatchPanic`
    TowerHttp,
    /// `StreamStack` with a drain: `RequestId`, `RequestSpan`, `Drain`, `ErrorWriter`, `Farewell`, `ChunkSpan`
    Ours,
    /// The same with `Coalesce`
    OursCoalesce,
    /// `StreamStack` with every layer off
    Off,
    /// A layer that does nothing, to measure the cost of `Router::layer` itself
    RouterLayer,
    /// A layer on the wrapper of `tower-stream-core` that does nothing
    Nothing,
    RequestId,
    RequestSpan,
    Metrics,
    Drain,
    /// A limit of streams for all
    Limit,
    /// The same, and a limit for each value of `Host`, to measure what a key costs
    LimitKey,
    /// A rate for each value of `Host`, with its fields
    LimitRate,
    /// A limit that follows the time to first chunk
    LimitAdaptive,
    Breaker,
    Digest,
    Headers,
    /// tower-http's `SetResponseHeader` for each of the three fields of `Headers`
    SetHeaders,
    /// A handler that sets the three fields itself
    HandlerHeaders,
    Coalesce,
    Compress,
    /// tower-http's compression, server-sent events included
    TowerHttpCompression,
    Heartbeat,
    ErrorWriter,
    Farewell,
    IdleTimeout,
    ChunkSpan,
    Sequence,
    VerifyDigest,
    /// A log in memory
    Resume,
    /// A dialect whose last record the end of a chunk nearly always rules out
    Openai,
    /// A dialect whose chunks are all searched for the last record
    Gemini,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Subscriber {
    None,
    Unsampled,
}

/// The same handler, with a last record.
fn chat(last: &'static str) -> Router {
    let events = move |ask| events::ending(ask, last);
    Router::new().route("/events", get(events))
}

fn set(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}

#[tokio::main]
#[allow(clippy::print_stdout)] // The script reads this address.
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::AlwaysOff)
        .build();
    if let Subscriber::Unsampled = args.subscriber {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("requests"));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::set_global_default(subscriber).expect("the first");
    }
    let drain = Drain::builder().build();
    let chunks = ChunkSpanLayer::new(provider.tracer("chunks"));
    let six = StreamStack::new().headers(StreamHeadersLayer::off());
    let limit = StreamLimitLayer::new().key(KeyBy::header(HOST));
    let app = Router::new().route("/events", get(events::events));
    let app = match args.layers {
        Layers::Bare => app,
        Layers::TowerHttp => app.layer(
            ServiceBuilder::new()
                .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
                .layer(TraceLayer::new_for_http())
                .layer(CatchPanicLayer::new())
                .layer(PropagateRequestIdLayer::x_request_id()),
        ),
        Layers::Ours => app.layer(six.drain(&drain).chunk_span(chunks)),
        Layers::OursCoalesce => {
            let coalesce = CoalesceLayer::new();
            app.layer(six.drain(&drain).chunk_span(chunks).coalesce(coalesce))
        }
        Layers::Off => app.layer(StreamStack::off()),
        Layers::RouterLayer => app.layer(MapRequestLayer::new(|request: Request| request)),
        Layers::Nothing => app.layer(nothing::NothingLayer),
        Layers::RequestId => app.layer(RequestIdLayer::new()),
        Layers::RequestSpan => app.layer(RequestSpanLayer::new()),
        Layers::Metrics => app.layer(StreamMetricsLayer::new(&global::meter("peer-servers"))),
        Layers::Drain => app.layer(drain.layer()),
        Layers::Limit => app.layer(limit.streams(1_000)),
        Layers::LimitKey => app.layer(limit.streams(1_000).streams_per_key(100)),
        Layers::LimitRate => app.layer(limit.rate_per_key(Rate::per_second(1_000_000_000))),
        Layers::LimitAdaptive => app.layer(limit.adaptive(Adaptive::between(20, 1_000))),
        Layers::Breaker => app.layer(BreakerLayer::new()),
        Layers::Digest => app.layer(DigestLayer::md5()),
        Layers::Headers => app.layer(StreamHeadersLayer::new()),
        Layers::SetHeaders => app.layer(
            ServiceBuilder::new()
                .layer(set(CACHE_CONTROL, "no-cache, no-transform"))
                .layer(set(HeaderName::from_static("x-accel-buffering"), "no"))
                .layer(set(X_CONTENT_TYPE_OPTIONS, "nosniff")),
        ),
        Layers::HandlerHeaders => {
            let events = async |ask| {
                let mut response = events::events(ask).await;
                let headers = response.headers_mut();
                for (name, value) in [
                    (CACHE_CONTROL, "no-cache, no-transform"),
                    (HeaderName::from_static("x-accel-buffering"), "no"),
                    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
                ] {
                    headers.insert(name, HeaderValue::from_static(value));
                }
                response
            };
            Router::new().route("/events", get(events))
        }
        Layers::Compress => app.layer(CompressLayer::new()),
        Layers::TowerHttpCompression => {
            app.layer(CompressionLayer::new().compress_when(SizeAbove::new(0)))
        }
        Layers::Coalesce => app.layer(CoalesceLayer::new()),
        Layers::Heartbeat => app.layer(HeartbeatLayer::new()),
        Layers::ErrorWriter => app.layer(ErrorWriterLayer::new()),
        Layers::Farewell => app.layer(drain.farewell()),
        Layers::IdleTimeout => app.layer(IdleTimeoutLayer::new(Duration::from_secs(30))),
        Layers::ChunkSpan => app.layer(chunks),
        Layers::Sequence => app.layer(SequenceLayer::new()),
        Layers::VerifyDigest => app.layer(VerifyDigestLayer::md5()),
        Layers::Resume => app.layer(Resume::builder(Memory::new()).build().layer()),
        Layers::Openai => chat("data: [DONE]\n\n").layer(DialectLayer::new(Dialect::OPENAI_CHAT)),
        Layers::Gemini => {
            let last = "data: {\"candidates\":[{\"finishReason\":\"STOP\"}]}\n\n";
            chat(last).layer(DialectLayer::new(Dialect::GEMINI))
        }
    };
    let listener = TcpListener::bind(args.listen).await?;
    println!("{}", listener.local_addr()?);
    if args.drain_serve {
        // `serve` sets TCP_NODELAY itself.
        serve(listener, app).drain(&drain).await?;
        return Ok(());
    }
    let listener = listener.tap_io(|io| _ = io.set_nodelay(true));
    axum::serve(listener, app).await
}
