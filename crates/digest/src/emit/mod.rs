//! Announcing the digest of what is sent.

mod layer;
mod stage;
#[cfg(test)]
mod tests;

pub use self::{
    layer::{DigestLayer, Sent},
    stage::DigestStage,
};
