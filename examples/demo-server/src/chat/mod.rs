//! The chat endpoint: OpenAI's chat completions, answered by the text model.

mod answer;
mod error;
mod handler;
mod request;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use handler::{chat_completions, models};

/// The model's name where a request gives none.
const MODEL_ID: &str = "alice-markov-2";

/// The day it was made, in seconds since 1970.
const MODEL_CREATED: u64 = 1_795_132_800;
