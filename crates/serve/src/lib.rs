#![doc = include_str!("../README.md")]

mod activity;
mod alarm;
mod aside;
mod client_io;
mod connection;
mod connections;
mod limits;
mod listener;
mod pace;
mod preface;
mod report;
mod request_body;
mod serve;
mod service;
mod settings;
mod socket;
mod streams;

pub use self::{
    connections::Connections,
    listener::Listener,
    report::Report,
    request_body::RequestBody,
    serve::{Serve, serve},
};
/// For the [`ServerConfig`](rustls::ServerConfig) of [`Serve::tls`].
#[cfg(feature = "tls")]
pub use tokio_rustls::rustls;
pub use tower_stream_core::PeerAddr;
