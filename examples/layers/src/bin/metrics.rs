//! Stream metrics, printed every five seconds: `cargo run -p layers --bin metrics`
//!
//! ```sh
//! curl -N http://127.0.0.1:3000/ & curl -N --max-time 1 http://127.0.0.1:3000/
//! ```

#![allow(clippy::print_stdout)] // an example says where it listens

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use tower_stream::metrics::StreamMetricsLayer;

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(1..=5).then(|n| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(Event::default().data(format!("event {n}")))
    }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let reader = PeriodicReader::builder(opentelemetry_stdout::MetricExporter::default())
        .with_interval(Duration::from_secs(5))
        .build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    let app = Router::new()
        .route("/", get(events))
        .layer(StreamMetricsLayer::new(&provider.meter("streams")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
