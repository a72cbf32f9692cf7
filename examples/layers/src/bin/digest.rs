//! Announces the digest of each response, and checks declared digests: `cargo run -p layers --bin digest`
//!
//! ```sh
//! curl -i http://127.0.0.1:3000/short                       # in the header
//! curl -iN http://127.0.0.1:3000/stream -H 'TE: trailers'   # in the trailer
//! curl -iN http://127.0.0.1:3000/broken                     # wrong digest: the response never looks complete
//! ```

#![allow(clippy::print_stdout)] // an example says where it listens

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tower_stream::digest::{DigestLayer, VerifyDigestLayer};

fn stream() -> Body {
    Body::from_stream(stream::iter(1..=5).then(|n| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok::<_, Infallible>(Bytes::from(format!("line {n}\n")))
    }))
}

async fn broken() -> ([(&'static str, &'static str); 1], Body) {
    // The MD5 of the empty string.
    (
        [("x-content-md5", "d41d8cd98f00b204e9800998ecf8427e")],
        stream(),
    )
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/short", get(|| async { "hello" }))
        .route("/stream", get(|| async { stream() }))
        .route("/broken", get(broken))
        .layer(VerifyDigestLayer::md5())
        .layer(DigestLayer::md5());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
