#![doc = include_str!("../README.md")]

mod fields;
mod form;
mod layer;
mod retry;
mod stage;
#[cfg(test)]
mod tests;
mod timer;

pub use self::{form::Heartbeat, layer::HeartbeatLayer, stage::HeartbeatStage};
