//! Request ids on headers, events and every log line: `cargo run -p layers --bin ids`
//!
//! ```sh
//! curl -Ni http://127.0.0.1:3000/ -H 'x-request-id: order-17'
//! ```

#![allow(clippy::print_stdout)] // an example says where it listens

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use tower_stream::{
    ids::{RequestIdLayer, SequenceLayer, log},
    prelude::RequestId,
};
use tracing_subscriber::{fmt, layer::SubscriberExt, util::SubscriberInitExt};

async fn events(id: RequestId) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    tracing::info!(%id, "the stream begins");
    Sse::new(stream::iter(1..=5).then(|n| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        // This line has request_id and sequence_id, although the handler returned long ago.
        tracing::info!(n, "one more event");
        Ok(Event::default().data(format!("event {n}")))
    }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    tracing_subscriber::registry()
        .with(log::RequestLog::new())
        .with(fmt::layer().event_format(log::json()))
        .init();
    let app = Router::new()
        .route("/", get(events))
        .layer(SequenceLayer::new())
        .layer(RequestIdLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
