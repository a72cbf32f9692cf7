#![doc = include_str!("../README.md")]

mod fields;
mod form;
mod layer;
mod retry;
mod silence;
mod stage;
#[cfg(test)]
mod tests;
mod ticker;

pub use self::{form::Heartbeat, layer::HeartbeatLayer, stage::HeartbeatStage};
