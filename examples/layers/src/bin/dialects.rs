//! Streams that say themselves when they are over: a vendor's dialect, and one of your own: `cargo run -p layers --bin dialects`
//!
//! ```sh
//! curl -N http://127.0.0.1:3000/v1/chat/completions
//! curl -N http://127.0.0.1:3000/build
//! ```
//!
//! Both handlers lose their backend and end as if all was well. The last record is missing, so each client gets an error in
//! the form that it knows.

#![allow(clippy::print_stdout)] // an example says where it listens

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use serde_json::json;
use tower_stream::{
    core::{Dialect, StreamKind},
    errors::{DialectLayer, ErrorWriterLayer},
};

/// The steps of a build. The last event is `event: built`, and a failure is `event: broken`.
const BUILD: Dialect = Dialect::new("build", StreamKind::Sse)
    .with_last_record("built", |record| record.event() == Some(b"built"))
    .with_error(|report| {
        let why = json!({ "why": report.message(), "kind": report.kind().as_str() });
        format!("event: broken\ndata: {why}\n\n")
    });

fn slowly(events: Vec<Event>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(events).then(|event| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(event)
    }))
}

/// Without the `[DONE]` that OpenAI's clients wait for.
async fn chat() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    slowly(["Once", " upon"].map(token).to_vec())
}

fn token(text: &str) -> Event {
    let choice = json!({ "index": 0, "delta": { "content": text } });
    Event::default().data(json!({ "choices": [choice] }).to_string())
}

async fn build() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    slowly(
        ["compiled", "linked"]
            .map(|step| Event::default().data(step))
            .to_vec(),
    )
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route(
            "/v1/chat/completions",
            get(chat).layer(DialectLayer::new(Dialect::OPENAI_CHAT)),
        )
        .route("/build", get(build).layer(DialectLayer::new(BUILD)))
        .layer(ErrorWriterLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
