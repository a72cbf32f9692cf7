#![doc = include_str!("../README.md")]

mod adaptive;
mod breaker;
mod key;
mod layer;
mod limit;
#[cfg(feature = "metrics")]
mod observe;
mod permit;
mod rate;
mod refusal;
mod slots;
mod stage;
mod table;
#[cfg(test)]
mod tests;

pub use self::{
    adaptive::Adaptive,
    breaker::{BreakerLayer, BreakerStage, BreakerState, BreakerStats},
    key::KeyBy,
    layer::StreamLimitLayer,
    limit::LimitStats,
    permit::StreamPermit,
    rate::Rate,
    stage::StreamLimitStage,
};
#[cfg(feature = "axum")]
pub use tower_stream_core::MissingLayer;
