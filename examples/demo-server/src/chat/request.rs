//! Reads a chat completion request, member by member, so that an error names the member.
//!
//! Members that this text model cannot support are rejected (`n`, `logprobs`, a `response_format` other than text, a
//! forced tool call). Members that only influence the style of the text are accepted and ignored.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::{MODEL_ID, error::ApiError};
use crate::model::{Sampling, count_tokens};

/// Largest number of tokens in a completion.
const MAX_TOKENS: u64 = 16_384;
/// Number of tokens if the request sets no limit.
const DEFAULT_MAX_TOKENS: u64 = 256;
/// Minimum number of tokens, unless the request sets a lower limit: some paragraphs are only one line.
const DEFAULT_MIN_TOKENS: u64 = 48;

/// A valid request.
#[derive(Debug)]
pub(super) struct ChatRequest {
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) max_tokens: u64,
    pub(super) stop: Vec<String>,
    pub(super) sampling: Sampling,
    pub(super) prompt_tokens: u64,
}

impl ChatRequest {
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body).map_err(|error| ApiError {
            status: StatusCode::BAD_REQUEST,
            message: format!("the request body is not valid JSON: {error}"),
            param: None,
            code: None,
        })?;
        let Value::Object(members) = value else {
            return Err(ApiError {
                status: StatusCode::BAD_REQUEST,
                message: format!("the request body must be an object, not {}", kind(&value)),
                param: None,
                code: Some("invalid_type"),
            });
        };
        refuse_unsupported(&members)?;
        let mut seed = Fnv::new();
        let prompt_tokens = read_messages(&members, &mut seed)?;
        if let Some(number) = integer(&members, "seed", i64::MIN, i64::MAX)? {
            seed.add(&number.to_le_bytes());
        }
        let stream = boolean(&members, "stream")?.unwrap_or(false);
        let include_usage = read_stream_options(&members, stream)?;
        let min_tokens = integer(&members, "min_tokens", 0, MAX_TOKENS as i64)?;
        Ok(Self {
            model: text(&members, "model")?.unwrap_or(MODEL_ID).to_owned(),
            stream,
            include_usage,
            max_tokens: read_max_tokens(&members)?,
            stop: read_stop(&members)?,
            sampling: Sampling {
                seed: seed.0,
                temperature: number(&members, "temperature", 0.0, 2.0)?.unwrap_or(1.0),
                min_tokens: min_tokens.map_or(DEFAULT_MIN_TOKENS, i64::cast_unsigned),
            },
            prompt_tokens,
        })
    }
}

/// Checks the messages. Returns their number of tokens, and mixes them into the seed.
fn read_messages(members: &Map<String, Value>, seed: &mut Fnv) -> Result<u64, ApiError> {
    let messages = match present(members, "messages") {
        Some(Value::Array(messages)) => messages,
        Some(other) => return Err(wrong_type("messages", "an array of objects", other)),
        None => {
            return Err(ApiError::invalid(
                "missing_required_parameter",
                "messages",
                "missing required parameter: 'messages'",
            ));
        }
    };
    if messages.is_empty() {
        return Err(ApiError::invalid(
            "empty_array",
            "messages",
            "'messages' must have at least one message",
        ));
    }
    let mut tokens = 0;
    for (at, message) in messages.iter().enumerate() {
        let at = format!("messages[{at}]");
        let Value::Object(message) = message else {
            return Err(wrong_type(&at, "an object", message));
        };
        let role = read_role(message, &at)?;
        seed.add(role.as_bytes());
        for part in read_content(message, &at, role)? {
            seed.add(part.as_bytes());
            tokens += count_tokens(part);
        }
    }
    Ok(tokens)
}

fn read_role<'a>(message: &'a Map<String, Value>, at: &str) -> Result<&'a str, ApiError> {
    const ROLES: [&str; 6] = [
        "system",
        "developer",
        "user",
        "assistant",
        "tool",
        "function",
    ];
    let at = format!("{at}.role");
    match present(message, "role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => Ok(role),
        Some(Value::String(role)) => Err(ApiError::invalid(
            "invalid_value",
            at.as_str(),
            format!(
                "invalid '{at}': expected one of {}, got '{role}'",
                ROLES.join(", ")
            ),
        )),
        Some(other) => Err(wrong_type(&at, "a string", other)),
        None => Err(ApiError::invalid(
            "missing_required_parameter",
            at.as_str(),
            format!("missing required parameter: '{at}'"),
        )),
    }
}

/// The texts of a message, whose content is a string or an array of text parts.
fn read_content<'a>(
    message: &'a Map<String, Value>,
    at: &str,
    role: &str,
) -> Result<Vec<&'a str>, ApiError> {
    let at = format!("{at}.content");
    match present(message, "content") {
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(parts)) => parts
            .iter()
            .enumerate()
            .map(|(n, part)| match (&part["type"], &part["text"]) {
                (Value::String(kind), Value::String(text)) if kind == "text" => Ok(text.as_str()),
                _ => Err(ApiError::invalid(
                    "invalid_value",
                    format!("{at}[{n}]"),
                    format!("'{at}[{n}]' must be a text part: this model only reads text"),
                )),
            })
            .collect(),
        // An assistant message that called a tool has no content.
        None if role == "assistant" => Ok(Vec::new()),
        None => Err(ApiError::invalid(
            "missing_required_parameter",
            at.as_str(),
            format!("missing required parameter: '{at}'"),
        )),
        Some(other) => Err(wrong_type(&at, "a string or an array of parts", other)),
    }
}

/// `max_completion_tokens`, or the older `max_tokens`.
fn read_max_tokens(members: &Map<String, Value>) -> Result<u64, ApiError> {
    let most = MAX_TOKENS as i64;
    let newer = integer(members, "max_completion_tokens", 1, most)?;
    let older = integer(members, "max_tokens", 1, most)?;
    Ok(newer
        .or(older)
        .map_or(DEFAULT_MAX_TOKENS, i64::cast_unsigned))
}

fn read_stop(members: &Map<String, Value>) -> Result<Vec<String>, ApiError> {
    let stops: Vec<&Value> = match present(members, "stop") {
        None => Vec::new(),
        Some(Value::Array(stops)) => stops.iter().collect(),
        Some(one) => vec![one],
    };
    if stops.len() > 4 {
        return Err(ApiError::invalid(
            "array_above_max_length",
            "stop",
            "'stop' may hold at most 4 sequences",
        ));
    }
    stops
        .into_iter()
        .map(|stop| match stop {
            Value::String(text) if text.is_empty() => Err(ApiError::invalid(
                "invalid_value",
                "stop",
                "a stop sequence must not be empty",
            )),
            Value::String(text) => Ok(text.clone()),
            other => Err(wrong_type("stop", "a string or an array of strings", other)),
        })
        .collect()
}

fn read_stream_options(members: &Map<String, Value>, stream: bool) -> Result<bool, ApiError> {
    match present(members, "stream_options") {
        None => Ok(false),
        Some(Value::Object(_)) if !stream => Err(ApiError::invalid(
            "invalid_value",
            "stream_options",
            "'stream_options' is only allowed when 'stream' is true",
        )),
        Some(Value::Object(options)) => Ok(match present(options, "include_usage") {
            None => false,
            Some(Value::Bool(include)) => *include,
            Some(other) => {
                return Err(wrong_type(
                    "stream_options.include_usage",
                    "a boolean",
                    other,
                ));
            }
        }),
        Some(other) => Err(wrong_type("stream_options", "an object", other)),
    }
}

fn refuse_unsupported(members: &Map<String, Value>) -> Result<(), ApiError> {
    let refuse = |param: &str, what: &str| {
        Err(ApiError::invalid(
            "unsupported_value",
            param,
            format!("'{param}': this model {what}"),
        ))
    };
    if integer(members, "n", 1, 128)?.is_some_and(|n| n != 1) {
        return refuse("n", "gives one choice");
    }
    if boolean(members, "logprobs")? == Some(true) {
        return refuse("logprobs", "gives no log probabilities");
    }
    if present(members, "response_format").is_some_and(|format| format["type"] != "text") {
        return refuse("response_format", "only writes text");
    }
    let free = |choice: &Value| choice == "auto" || choice == "none";
    if present(members, "tool_choice").is_some_and(|choice| !free(choice)) {
        return refuse("tool_choice", "calls no tools");
    }
    Ok(())
}

/// Returns a member unless it is absent or null: SDKs send null for members that are not set.
fn present<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    members.get(name).filter(|value| !value.is_null())
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, ApiError> {
    match present(members, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_type(name, "a string", other)),
    }
}

fn boolean(members: &Map<String, Value>, name: &str) -> Result<Option<bool>, ApiError> {
    match present(members, name) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => Err(wrong_type(name, "a boolean", other)),
    }
}

fn integer(
    members: &Map<String, Value>,
    name: &str,
    least: i64,
    most: i64,
) -> Result<Option<i64>, ApiError> {
    match present(members, name) {
        None => Ok(None),
        Some(value) => match value.as_i64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            Some(number) => Err(out_of_range(name, number, least, most)),
            None => Err(wrong_type(name, "an integer", value)),
        },
    }
}

fn number(
    members: &Map<String, Value>,
    name: &str,
    least: f64,
    most: f64,
) -> Result<Option<f64>, ApiError> {
    match present(members, name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            Some(number) => Err(out_of_range(name, number, least, most)),
            None => Err(wrong_type(name, "a number", value)),
        },
    }
}

fn out_of_range<T: std::fmt::Display>(name: &str, value: T, least: T, most: T) -> ApiError {
    ApiError::invalid(
        "invalid_value",
        name,
        format!("invalid '{name}': expected a value from {least} to {most}, got {value}"),
    )
}

fn wrong_type(name: &str, expected: &str, got: &Value) -> ApiError {
    ApiError::invalid(
        "invalid_type",
        name,
        format!(
            "invalid type for '{name}': expected {expected}, got {}",
            kind(got)
        ),
    )
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// FNV-1a with 64 bits: the seed is the same on every machine and in every version.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Mixes in one field. The length distinguishes `ab` + `c` from `a` + `bc`.
    fn add(&mut self, field: &[u8]) {
        for byte in (field.len() as u64).to_le_bytes().iter().chain(field) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
