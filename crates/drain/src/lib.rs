#![doc = include_str!("../README.md")]

mod admission;
mod state;

#[cfg(not(loom))]
mod close;
#[cfg(not(loom))]
mod drain;
#[cfg(not(loom))]
mod farewell;
#[cfg(not(loom))]
mod layer;
#[cfg(all(feature = "metrics", not(loom)))]
mod observe;
#[cfg(not(loom))]
mod probe;
#[cfg(not(loom))]
mod refusal;
#[cfg(not(loom))]
mod schedule;
#[cfg(not(loom))]
pub mod server;
#[cfg(not(loom))]
mod settings;
#[cfg(not(loom))]
mod shared;
#[cfg(all(feature = "signals", not(loom)))]
mod signals;
#[cfg(not(loom))]
mod stage;
#[cfg(not(loom))]
mod stats;
#[cfg(not(loom))]
mod token;

pub use self::state::{Phase, State};
#[cfg(not(loom))]
pub use self::{
    drain::{Drain, States},
    farewell::{FarewellLayer, FarewellStage, Policy},
    layer::DrainLayer,
    probe::{Probe, ProbeBody},
    settings::{BudgetExceeded, BuildError, Builder, Refusal},
    stage::DrainStage,
    stats::Stats,
    token::{DrainToken, Draining},
};
#[cfg(all(feature = "axum", not(loom)))]
pub use tower_stream_core::MissingLayer;

#[cfg(all(test, not(loom)))]
mod tests;
