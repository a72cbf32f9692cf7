#![doc = include_str!("../README.md")]

pub mod access;
pub mod attribute;
mod chunk;
#[cfg(feature = "otlp")]
mod client;
mod clock;
#[cfg(feature = "loss")]
pub mod loss;
mod parent;
#[cfg(feature = "otlp")]
pub mod pipeline;
mod request;
#[cfg(test)]
mod testing;

pub use self::{
    chunk::{ChunkAttributes, ChunkSelection, ChunkSpanLayer},
    request::{ClientAddress, RemoteParent, RequestSpanLayer},
};
