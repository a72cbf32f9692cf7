//! Digests of streaming HTTP bodies.

pub mod kernel;

pub use digest::Digest;
