//! Checking request bodies against the digests promised for them.

mod layer;
#[cfg(test)]
mod tests;

pub use self::layer::{
    VerifyRequestDigestFuture, VerifyRequestDigestLayer, VerifyRequestDigestService,
};
