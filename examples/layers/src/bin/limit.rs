//! At most two streams of each client, and no more than ten: `cargo run -p layers --bin limit`
//!
//! ```sh
//! for n in 1 2 3; do curl -sN --max-time 5 http://127.0.0.1:3000/ & done; wait
//! ```

#![allow(clippy::print_stdout)] // an example says where it listens

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use tower_stream::limit::{BreakerLayer, StreamLimitLayer};

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(1..).then(|n: u32| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Event::default().data(format!("event {n}")))
    }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let limit = StreamLimitLayer::new()
        .streams(10)
        .wait(20, Duration::from_secs(1))
        .streams_per_key(2);
    let app = Router::new()
        .route("/", get(events))
        .layer(BreakerLayer::new())
        .layer(limit);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    // The limit reads the client address from the connection.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).await
}
