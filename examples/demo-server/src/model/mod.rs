//! A small, honest text model: an order-2 Markov chain over the text that ships with the demo.
//!
//! It knows which token followed which two tokens, and nothing else. It is deterministic: the
//! same seed gives the same tokens on every machine.

mod chain;
mod completion;
mod tokens;

pub(crate) use chain::{Generation, MODEL, Sampling};
pub(crate) use completion::{Completion, Finish};
pub(crate) use tokens::count as count_tokens;
