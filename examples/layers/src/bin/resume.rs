//! A stream that goes on where its client lost it: `cargo run -p layers --bin resume`
//!
//! ```sh
//! curl -N http://127.0.0.1:3000/          # interrupt it after some events
//! curl -N -H 'Last-Event-ID: <the last id>' http://127.0.0.1:3000/
//! ```

#![allow(clippy::print_stdout)] // an example says where it listens

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use tower_stream::resume::{Memory, Resume, WhoLeft};

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(1..=1_000).then(|n: u32| async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(Event::default().data(format!("event {n}")))
    }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    // Whoever knows the id of a stream can read it. An application sets its `owner`, usually the user of a session cookie.
    let resume = Resume::builder(Memory::new()).build();
    let layer = resume
        .layer()
        .who_left(WhoLeft::Grace(Duration::from_secs(60)));
    let app = Router::new()
        .route("/", get(events))
        .layer(layer)
        .nest_service("/streams", resume.routes());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
