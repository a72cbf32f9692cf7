//! A request span to the end of the body and a span for each chunk, on standard output:
//! `cargo run -p layers --bin trace`
//!
//! ```sh
//! curl -N http://127.0.0.1:3000/
//! ```

#![allow(clippy::print_stdout)] // an example says where it listens

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tower_stream::trace::{ChunkSelection, ChunkSpanLayer, RequestSpanLayer};
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(1..=5).then(|n| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(Event::default().data(format!("event {n}")))
    }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    // `tower_stream::trace::pipeline` (feature `otlp`) is an OTLP pipeline that counts lost spans.
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(opentelemetry_stdout::SpanExporter::default())
        .build();
    tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("requests")))
        .init();
    let chunks = ChunkSpanLayer::new(provider.tracer("chunks")).select(ChunkSelection::all());
    let app = Router::new()
        .route("/", get(events))
        .layer(chunks)
        .layer(RequestSpanLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
