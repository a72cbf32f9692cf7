#![doc = include_str!("../README.md")]

mod connection;
mod linger;
mod listener;
mod report;
mod serve;

pub use self::{
    listener::Listener,
    report::Report,
    serve::{Serve, serve},
};
pub use tower_stream_core::PeerAddr;
