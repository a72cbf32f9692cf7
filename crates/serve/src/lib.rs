#![doc = include_str!("../README.md")]

mod activity;
mod aside;
mod connection;
mod connections;
mod limits;
mod linger;
mod listener;
mod pace;
mod preface;
mod report;
mod serve;
mod settings;
mod socket;
mod streams;
#[cfg(feature = "tls")]
mod tls;

#[cfg(feature = "tls")]
pub use self::tls::{TlsIo, TlsListener};
pub use self::{
    connections::Connections,
    listener::Listener,
    report::Report,
    serve::{Serve, serve},
};
/// For the [`ServerConfig`](rustls::ServerConfig) of [`Serve::tls`].
#[cfg(feature = "tls")]
pub use tokio_rustls::rustls;
pub use tower_stream_core::PeerAddr;
