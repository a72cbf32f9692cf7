//! Stops a streaming server with nothing lost.
//!
//! A server that is told to stop has three problems that a plain graceful shutdown leaves open. A request that is already
//! on its way to an idle connection is lost when that connection closes. A stream that lasts for hours holds the shutdown
//! for hours. And a stream that is cut looks to its client like a network failure. So a [`Drain`] goes through
//! [states](State), one way:
//!
//! | state | what happens |
//! |---|---|
//! | [`Active`](State::Active) | requests are served |
//! | [`Draining(Advertise)`](Phase::Advertise) | readiness says 503 and every HTTP/1 response says `Connection: close`, so that clients and load balancers go elsewhere; requests are served |
//! | [`Draining(Close)`](Phase::Close) | what is in flight may end, streams that can be resumed are ended one by one; requests are refused with 503 and `Retry-After` |
//! | deadline | every stream that is left is ended with a farewell that its client can read |
//! | [`Dead`](State::Dead) | what is left is cut |
//!
//! It is dead as soon as nothing is left, or at the deadline.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use tower_stream_drain::{Drain, Policy};
//! # #[cfg(feature = "serve")]
//! # #[tokio::main]
//! # async fn main() -> std::io::Result<()> {
//! let drain = Drain::builder()
//!     .advertise(Duration::from_millis(50))
//!     .deadline(Duration::from_secs(20))
//!     .build();
//!
//! let app = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .layer(drain.farewell().policy(Policy::EndEarly))
//!     .layer(drain.layer());
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let handle = drain.clone();
//! # tokio::spawn(async move { handle.start() });
//! // SIGTERM starts the drain, a second one ends it at once
//! let report = drain.serve(listener, app).await?;
//! println!("{report}");
//! assert!(report.is_clean());
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "serve"))]
//! # fn main() {}
//! ```
//!
//! # The parts
//!
//! * [`DrainLayer`] admits, counts each request until its **body** is dropped, and closes connections;
//! * [`FarewellLayer`] ends streams at the deadline or early;
//! * [`Draining`] lets a handler see that it should stop; [`DrainToken`] lets a websocket or a tunnel hold the drain;
//! * [`Drain::readiness`] and [`Drain::liveness`] answer probes;
//! * [`Drain::serve`] (feature `serve`) owns the accept loop, without which a connection can neither be told GOAWAY nor
//!   be cut. With another server, [`Drain::start`] and [`Drain::dead`] say when to stop it.

mod admission;
mod state;

#[cfg(not(loom))]
mod close;
#[cfg(not(loom))]
mod drain;
#[cfg(not(loom))]
mod farewell;
#[cfg(not(loom))]
mod layer;
#[cfg(all(feature = "metrics", not(loom)))]
mod observe;
#[cfg(not(loom))]
mod probe;
#[cfg(not(loom))]
mod refusal;
#[cfg(not(loom))]
mod schedule;
#[cfg(all(feature = "serve", not(loom)))]
mod serve;
#[cfg(not(loom))]
mod settings;
#[cfg(not(loom))]
mod shared;
#[cfg(not(loom))]
mod stage;
#[cfg(not(loom))]
mod stats;
#[cfg(not(loom))]
mod token;

#[cfg(all(feature = "serve", not(loom)))]
pub use self::serve::{Listener, PeerAddr, Serve};
pub use self::state::{Phase, State};
#[cfg(all(feature = "axum", not(loom)))]
pub use self::token::MissingDrain;
#[cfg(not(loom))]
pub use self::{
    drain::{Drain, States},
    farewell::{FarewellLayer, FarewellStage, Policy},
    layer::DrainLayer,
    probe::{Probe, ProbeBody},
    settings::{BudgetExceeded, BuildError, Builder, Refusal},
    stage::DrainStage,
    stats::{Report, Stats},
    token::{DrainToken, Draining},
};

#[cfg(all(test, not(loom)))]
mod tests;
