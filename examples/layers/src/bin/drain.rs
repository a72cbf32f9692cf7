//! A server that stops with nothing lost: `cargo run -p layers --bin drain`
//!
//! ```sh
//! curl -N http://127.0.0.1:3000/    # and Ctrl-C in the server's terminal: the stream ends with `event: drain`
//! ```

#![allow(clippy::print_stdout)] // it is an example

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use tower_stream::drain::{Drain, Policy};

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(1..).then(|n: u32| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(Event::default()
            .id(n.to_string())
            .data(format!("event {n}")))
    }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let drain = Drain::builder()
        .advertise(Duration::from_secs(2))
        .deadline(Duration::from_secs(10))
        .build();
    let app = Router::new()
        .route("/", get(events))
        .layer(drain.farewell().policy(Policy::EndEarly))
        .layer(drain.layer())
        .route_service("/readyz", drain.readiness());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    let report = drain.serve(listener, app).await?;
    println!("{report}");
    Ok(())
}
