//! A burst of small records is sent in few chunks: `cargo run -p layers --bin coalesce`
//!
//! ```sh
//! curl -sN --raw http://127.0.0.1:3000/ | head -c 300
//! ```

#![allow(clippy::print_stdout)] // an example says where it listens

use std::convert::Infallible;

use axum::{Router, body::Body, http::header, response::IntoResponse, routing::get};
use futures_util::stream;
use tower_stream::coalesce::CoalesceLayer;

async fn lines() -> impl IntoResponse {
    let lines = (0..10_000).map(|n| Ok::<_, Infallible>(format!("{{\"n\":{n}}}\n")));
    let body = Body::from_stream(stream::iter(lines));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body)
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/", get(lines))
        .layer(CoalesceLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
