#![doc = include_str!("../README.md")]

mod forward;
mod layer;
#[cfg(feature = "log")]
pub mod log;
mod make;
#[cfg(feature = "metrics")]
mod observe;
mod scope;
mod sequence;
mod stage;

#[cfg(feature = "axum")]
pub use tower_stream_core::MissingLayer;
pub use tower_stream_core::{InvalidRequestId, RequestId, Sequence};

#[cfg(feature = "tokio")]
pub use self::scope::spawn;
pub use self::{
    forward::{ForwardRequestId, ForwardRequestIdLayer},
    layer::{RequestIdLayer, Trust},
    make::{MakeRequestId, MakeUuidV4, MakeUuidV7},
    scope::{Entered, RequestScope, in_request},
    sequence::{EventId, FirstEvent, SequenceLayer, SequenceStage},
    stage::RequestIdStage,
};

#[cfg(test)]
mod tests;
