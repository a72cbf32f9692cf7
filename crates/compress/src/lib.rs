#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod accept;
mod adaptive;
mod coding;
mod eligible;
mod encoder;
mod layer;
pub mod load;
#[cfg(feature = "metrics")]
mod observe;
mod settings;
mod stage;
mod switch;
#[cfg(test)]
mod tests;

pub use self::{
    coding::Coding,
    eligible::Uncompressed,
    layer::CompressLayer,
    settings::{Mode, Settings},
    stage::CompressStage,
    switch::{CompressionStats, CompressionSwitch},
};
