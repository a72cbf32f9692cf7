mod cursors;
mod drain;
mod durability;
pub(crate) mod interleavings;
mod lost;
mod policies;
pub(crate) mod support;
