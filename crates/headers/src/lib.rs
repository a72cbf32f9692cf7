#![doc = include_str!("../README.md")]

mod cache_control;
mod hop_by_hop;
mod layer;
mod stage;
#[cfg(test)]
mod tests;

pub use self::{layer::StreamHeadersLayer, stage::StreamHeadersStage};
