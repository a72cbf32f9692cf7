//! A server that ends its streams before it stops: `cargo run -p layers --bin drain`
//!
//! ```sh
//! curl -N http://127.0.0.1:3000/            # then press Ctrl-C in the server's terminal
//! curl -i http://127.0.0.1:3001/readyz      # 503 from then on
//! curl -i http://127.0.0.1:3001/livez       # 200 until the process exits
//! ```
//!
//! The stream continues for at most 10 s and ends with `event: drain`. A second Ctrl-C ends everything at once.
//!
//! The probes have a separate listener, because a drain closes its listener while streams are still in flight. A
//! liveness probe on that listener would then fail, and Kubernetes would kill the process and abort the streams.
//!
//! To use other addresses: `cargo run -p layers --bin drain 127.0.0.1:8080 127.0.0.1:8081`

#![allow(clippy::print_stdout)] // an example says where it listens

use std::{convert::Infallible, future::IntoFuture, io, time::Duration};

use axum::{
    Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tower_stream::{drain::Drain, serve};

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::iter(1..).then(|n: u32| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(Event::default()
            .id(n.to_string())
            .data(format!("event {n}")))
    }))
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut addresses = std::env::args().skip(1);
    let mut address = |default: &str| addresses.next().unwrap_or_else(|| default.to_owned());
    let public = TcpListener::bind(address("127.0.0.1:3000")).await?;
    let admin = TcpListener::bind(address("127.0.0.1:3001")).await?;

    let drain = Drain::builder()
        .advertise(Duration::from_secs(2))
        .deadline(Duration::from_secs(10))
        .build();
    let probes = Router::new()
        .route_service("/readyz", drain.readiness())
        .route_service("/livez", drain.liveness());
    let app = Router::new()
        .route("/", get(events))
        .layer(drain.farewell())
        .layer(drain.layer());

    println!(
        "listening on http://{} probes on http://{}",
        public.local_addr()?,
        admin.local_addr()?
    );
    // Not drained: this server responds until `main` returns.
    tokio::spawn(axum::serve(admin, probes).into_future());
    let report = serve(public, app).drain(&drain).await?;
    println!("{report}");
    Ok(())
}
