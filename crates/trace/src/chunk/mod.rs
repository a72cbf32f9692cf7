//! A span for each chunk of a response body.

mod body;
mod layer;
mod observer;
mod selection;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    body::ResponseBody,
    layer::{ChunkAttributes, ChunkSpanLayer},
    selection::ChunkSelection,
    service::{ChunkSpan, ResponseFuture},
};
