//! All layers in their recommended order: `cargo run -p layers --bin stack`
//!
//! ```sh
//! curl -Ni http://127.0.0.1:3000/
//! ```

#![allow(clippy::print_stdout)] // an example says where it listens

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use tower_stream::prelude::*;

async fn events(id: RequestId) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(1..=5).then(move |n| {
        let id = id.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(Event::default().data(format!("event {n} of {id}")))
        }
    }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let drain = Drain::builder().build();
    let app = Router::new().route("/", get(events)).layer(
        StreamStack::new()
            .drain(&drain)
            .sequence(SequenceLayer::new()),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    let report = serve(listener, app).drain(&drain).await?;
    println!("{report}");
    Ok(())
}
