//! Heartbeats while a stream waits for its next event: `cargo run -p layers --bin heartbeat`
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
use tower_stream::heartbeat::HeartbeatLayer;

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(1..).then(|n: u32| async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        Ok(Event::default().data(format!("event {n}")))
    }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let heartbeats = HeartbeatLayer::new()
        .interval(Duration::from_secs(1))
        .before_first(true)
        .retry(Duration::from_secs(3));
    let app = Router::new().route("/", get(events)).layer(heartbeats);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
