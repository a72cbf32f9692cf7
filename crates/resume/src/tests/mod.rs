mod cursors;
mod drain;
pub(crate) mod interleavings;
mod lost;
mod policies;
pub(crate) mod support;
