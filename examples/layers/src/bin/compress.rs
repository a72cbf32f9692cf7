//! Compressed events, each of which leaves at once: `cargo run -p layers --bin compress`
//!
//! ```sh
//! curl -N --compressed http://127.0.0.1:3000/
//! curl -X POST http://127.0.0.1:3000/compression/off
//! ```

#![allow(clippy::print_stdout)] // an example says where it listens

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::{get, post},
};
use futures_util::{Stream, StreamExt, stream};
use tower_stream::compress::{CompressLayer, Settings};

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(1..).then(|n: u32| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(Event::default().data(format!("event {n}")))
    }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let compression = CompressLayer::new();
    let switch = compression.switch();
    let off = || async move { switch.set(Settings::off()) };
    let app = Router::new()
        .route("/", get(events))
        .route("/compression/off", post(off))
        .layer(compression);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
