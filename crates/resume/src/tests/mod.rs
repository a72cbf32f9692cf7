mod cursors;
mod lost;
mod policies;
mod support;
