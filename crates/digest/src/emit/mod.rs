//! Announcing the digest of what is sent.

mod body;
mod future;
mod layer;
#[cfg(test)]
mod tests;

pub use self::{
    body::{DigestBody, HashedBody},
    future::DigestFuture,
    layer::{DigestLayer, DigestService, Sent},
};
