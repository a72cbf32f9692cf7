//! Checking request bodies against the digests promised for them.

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
