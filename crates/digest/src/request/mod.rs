//! Checks request bodies against their declared digests.

mod body;
mod layer;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    body::VerifyBody,
    layer::VerifyRequestDigestLayer,
    service::{VerifyRequestDigest, VerifyRequestDigestFuture},
};
