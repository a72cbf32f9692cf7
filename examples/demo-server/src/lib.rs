//! A streaming server that uses the layers of `tower-stream`.
//!
//! `cargo run --release -p demo-server -- --help` lists its flags and routes. Tests can start it in process:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
//! let server = demo_server::Server::start(demo_server::Args {
//!     public: any.into(),
//!     admin: any,
//!     advertise: std::time::Duration::ZERO,
//!     ..Default::default()
//! })
//! .await?;
//! assert_ne!(server.public_addr().port(), 0);
//! let report = server.shutdown().await?;
//! assert!(report.is_clean(), "{report}");
//! # Ok(())
//! # }
//! ```

mod admin;
mod args;
mod chat;
mod compression;
mod figures;
mod forgery;
mod layers;
mod listen;
pub mod log;
mod model;
mod page;
mod problem;
mod public;
mod query;
mod records;
mod reply;
mod routes;
mod server;
mod state;
#[cfg(test)]
mod testing;
mod text;
#[cfg(feature = "tls")]
mod tls;
#[cfg_attr(not(feature = "otlp"), path = "no_traces.rs")]
mod traces;

pub use admin::admin;
pub use args::{Args, Compress, LogFormat, ResumeLog};
pub use listen::ListenAddr;
pub use public::app;
pub use server::Server;
pub use state::State;
pub use traces::Traces;
