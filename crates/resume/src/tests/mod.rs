mod cursors;
mod drain;
mod lost;
mod policies;
pub(crate) mod support;
