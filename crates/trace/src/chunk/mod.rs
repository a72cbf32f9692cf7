//! A span for each chunk of a response body.

mod layer;
mod selection;
mod stage;
#[cfg(test)]
mod tests;

pub use self::{
    layer::{ChunkAttributes, ChunkSpanLayer},
    selection::ChunkSelection,
};
