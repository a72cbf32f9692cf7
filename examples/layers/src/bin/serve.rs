//! A server with limits for its clients: `cargo run -p layers --bin serve`
//!
//! ```sh
//! curl http://127.0.0.1:3000/      # the address that the server sees
//! nc 127.0.0.1 3000                # sends nothing, and is closed after 5 s
//! ```
//!
//! Another address: `cargo run -p layers --bin serve 127.0.0.1:8080`

#![allow(clippy::print_stdout)] // an example says where it listens

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, extract::ConnectInfo, routing::get};
use tokio::net::TcpListener;
use tower_stream::{drain::Drain, serve};

async fn peer(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
    format!("{peer}\n")
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let drain = Drain::builder().build();
    let app = Router::new().route("/", get(peer)).layer(drain.layer());
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:3000")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let report = serve(listener, app)
        .drain(&drain)
        .header_timeout(Duration::from_secs(5))
        .idle_timeout(Duration::from_secs(75))
        .max_connections(10_000)
        .max_connections_per_client(100)
        .await?;
    println!("{report}");
    Ok(())
}
