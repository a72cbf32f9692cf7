//! The JSON of a chat completion, as one document or in chunks.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use serde::Serialize;
use tower_stream_trace::ChunkAttributes;

use super::request::ChatRequest;
use crate::{
    model::{Completion, Finish},
    reply,
};

/// Identifies the build of the model; its training text never changes within one.
const FINGERPRINT: &str = "fp_alice_markov_2";

/// The members that every chunk of a response repeats.
#[derive(Debug)]
pub(super) struct Head {
    id: String,
    created: u64,
    model: String,
}

/// Number of tokens in the prompt and in the completion.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

impl Usage {
    pub(super) fn new(prompt_tokens: u64, completion: &Completion) -> Self {
        let completion_tokens = completion.tokens();
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
        }
    }
}

#[derive(Serialize)]
struct Object<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [Choice<'a>],
    /// `null` in the chunks of a stream that ends with usage; absent if no usage was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Delta<'a>>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
}

/// The part of the message that a chunk adds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
}

impl Head {
    pub(super) fn new(request: &ChatRequest) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            id: format!("chatcmpl-{:032x}", fastrand::u128(..)),
            created: now.map_or(0, |time| time.as_secs()),
            model: request.model.clone(),
        }
    }

    /// Attributes for the span of each chunk, named by OpenTelemetry's GenAI conventions.
    pub(super) fn chunk_attributes(&self) -> ChunkAttributes {
        ChunkAttributes::new([
            KeyValue::new("gen_ai.operation.name", "chat"),
            KeyValue::new("gen_ai.request.model", self.model.clone()),
            KeyValue::new("gen_ai.response.id", self.id.clone()),
        ])
    }

    /// The whole completion as one document.
    pub(super) fn completion(&self, text: &str, finish: Finish, usage: Usage) -> String {
        let choice = Choice {
            index: 0,
            message: Some(Message {
                role: "assistant",
                content: text,
                refusal: None,
            }),
            delta: None,
            logprobs: None,
            finish_reason: Some(reason(finish)),
        };
        self.json("chat.completion", &[choice], Some(Some(usage)))
    }

    /// A chunk that adds `delta`, and ends the message if there is a `finish`.
    pub(super) fn chunk(
        &self,
        delta: Delta<'_>,
        finish: Option<Finish>,
        include_usage: bool,
    ) -> String {
        let choice = Choice {
            index: 0,
            message: None,
            delta: Some(delta),
            logprobs: None,
            finish_reason: finish.map(reason),
        };
        let usage = include_usage.then_some(None);
        self.json("chat.completion.chunk", &[choice], usage)
    }

    /// The chunk after the message, with usage and without choices.
    pub(super) fn usage_chunk(&self, usage: Usage) -> String {
        self.json("chat.completion.chunk", &[], Some(Some(usage)))
    }

    fn json(
        &self,
        object: &'static str,
        choices: &[Choice<'_>],
        usage: Option<Option<Usage>>,
    ) -> String {
        reply::text(&Object {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage,
        })
    }
}

fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}
