//! Tests over real sockets: a server for the layer under test, and clients that expose everything they receive.
//!
//! A layer's own tests use a scripted body. What a client receives also depends on how hyper handles that body, so it
//! is checked here, byte by byte and frame by frame:
//!
//! - [`serve`] serves any axum `Router` or tower service on a free loopback port, over HTTP/1.0, 1.1 and 2 (cleartext);
//! - [`Protocol`] sends one [`Request`] over each of them and returns the same [`Response`] type, so that a test can be
//!   a table over protocols;
//! - [`h1::Connection`] and [`h2::Connection`] are the clients for tests with more than one exchange: raw bytes,
//!   keep-alive, pipelining, stalled clients, several streams, reset codes, GOAWAY;
//! - [`start_demo`] and [`DemoProcess`] run the demo server in this process or as a separate one;
//! - [`LogCapture`] collects the output of `tracing`.
//!
//! An [`End`] says how an exchange ended. This is the purpose of the crate: an aborted stream must never look complete.
//!
//! ```
//! use axum::{Router, routing::get};
//! use e2e::{End, Protocol, Request, serve};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = serve(Router::new().route("/", get(|| async { "hello" }))).await?;
//! for protocol in Protocol::ALL {
//!     let response = protocol.send(server.addr(), &Request::get("/")).await?;
//!     assert_eq!((response.status(), response.text().as_str()), (200, "hello"));
//!     assert!(response.end.is_whole(), "{protocol:?}: {}", response.end);
//! }
//! # Ok(()) }
//! ```
//!
//! Sockets cannot be combined with a paused clock: with `start_paused = true`, every timeout fires at once. Tests here
//! run in real time and assert order, never speed.

mod demo;
pub mod h1;
pub mod h2;
mod log;
mod protocol;
mod request;
mod response;
mod serve;

pub use demo::{DemoProcess, start_demo};
pub use log::LogCapture;
pub use protocol::Protocol;
pub use request::Request;
pub use response::{Chunk, End, Head, Headers, Response};
pub use serve::{TestServer, serve};

pub use rustix::process::Signal;

use std::{io, time::Duration};

use rustix::process::{Pid, kill_process};

/// How long a client waits for the next byte before the exchange counts as [`End::Stalled`], unless set otherwise.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Sends a signal to a process.
///
/// # Errors
/// As `kill(2)`.
///
/// # Panics
/// If `process` is no process id.
pub fn signal(process: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    Ok(kill_process(
        pid.expect("a process id is a positive i32"),
        signal,
    )?)
}
