//! One server of `tests/bench/run`: the same handler, with nothing, tower-http's layers or ours around it.

mod events;

use std::net::SocketAddr;

use axum::{Router, routing::get, serve::ListenerExt};
use clap::{Parser, ValueEnum};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    trace::TraceLayer,
};
use tower_stream::{StreamStack, drain::Drain, trace::ChunkSpanLayer};
use tracing_subscriber::layer::SubscriberExt;

/// Serves `GET /events?count=&bytes=&interval_ms=` and prints its address.
#[derive(Debug, Parser)]
struct Args {
    /// What stands around the handler
    #[arg(value_enum)]
    layers: Layers,

    /// What listens to spans: nobody, or tracing-opentelemetry with a sampler that takes none
    #[arg(long, value_enum, default_value_t = Subscriber::None)]
    subscriber: Subscriber,

    /// Serve with `Drain::serve` instead of `axum::serve`
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
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Subscriber {
    None,
    Unsampled,
}

#[tokio::main]
#[allow(clippy::print_stdout)] // the address, for the script
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
        Layers::Ours => {
            let chunks = ChunkSpanLayer::new(provider.tracer("chunks"));
            app.layer(StreamStack::new().drain(&drain).chunk_span(chunks))
        }
    };
    let listener = TcpListener::bind(args.listen).await?;
    println!("{}", listener.local_addr()?);
    if args.drain_serve {
        // sets TCP_NODELAY itself
        drain.serve(listener, app).await?;
        return Ok(());
    }
    let listener = listener.tap_io(|io| _ = io.set_nodelay(true));
    axum::serve(listener, app).await
}
