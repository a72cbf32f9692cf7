mod cursors;
mod drain;
mod durability;
pub(crate) mod interleavings;
mod keys;
mod lost;
mod policies;
mod restart;
pub(crate) mod support;
