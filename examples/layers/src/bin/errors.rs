//! A panic in the middle of a stream becomes its last event: `cargo run -p layers --bin errors`
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
use tower_stream::errors::{ErrorWriterLayer, IdleTimeoutLayer};

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(1..).then(|n: u32| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(n < 4, "the client never reads this text");
        Ok(Event::default().data(format!("event {n}")))
    }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/", get(events))
        .layer(IdleTimeoutLayer::new(Duration::from_secs(10)))
        .layer(ErrorWriterLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
