mod cursors;
mod lost;
mod policies;
pub(crate) mod support;
