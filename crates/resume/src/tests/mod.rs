mod cursors;
mod drain;
mod durability;
pub(crate) mod interleavings;
mod lost;
mod policies;
mod restart;
pub(crate) mod support;
