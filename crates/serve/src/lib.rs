#![doc = include_str!("../README.md")]

mod activity;
mod connection;
mod limits;
mod linger;
mod listener;
mod preface;
mod report;
mod serve;
mod settings;

pub use self::{
    listener::Listener,
    report::Report,
    serve::{Serve, serve},
};
pub use tower_stream_core::PeerAddr;
