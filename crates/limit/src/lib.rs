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

#[cfg(feature = "axum")]
pub use self::permit::MissingPermit;
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
