#![doc = include_str!("../README.md")]

mod joined;
mod layer;
mod stage;
#[cfg(test)]
mod tests;

pub use self::{layer::CoalesceLayer, stage::CoalesceStage};
