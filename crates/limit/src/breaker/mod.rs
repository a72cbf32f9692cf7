//! A circuit breaker that judges a response by its true end.

mod circuit;
mod layer;
mod stage;

pub use self::{
    layer::{BreakerLayer, BreakerStats},
    stage::BreakerStage,
};

/// The state of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Requests pass, and their ends are counted.
    Closed,
    /// Requests are refused.
    Open,
    /// Some requests pass as probes, and all others are refused.
    HalfOpen,
}

impl BreakerState {
    /// `closed`, `open` or `half_open`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}
