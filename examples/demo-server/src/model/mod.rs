//! A small text model: an order-2 Markov chain trained on the text that ships with the demo.
//!
//! It only knows which token followed which two tokens. It is deterministic: the same seed gives the same tokens on
//! every machine.

mod chain;
mod completion;
mod tokens;

pub(crate) use chain::{Generation, MODEL, Sampling};
pub(crate) use completion::{Completion, Finish};
pub(crate) use tokens::count as count_tokens;
