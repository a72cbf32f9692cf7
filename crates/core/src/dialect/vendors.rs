//! The dialects of vendors. Each is what the parser of the vendor's own SDK acts on.

use memchr::memchr;
use serde_json::{Value, json};

use super::{Dialect, ErrorReport, KeepAlive, LastRecord, Record};
use crate::{FaultKind, RecordFormat, StreamKind, boundary::ends_with_record};

impl Dialect {
    /// The dialects of vendors, all of which have a last record.
    pub const VENDORS: [Self; 7] = [
        Self::OPENAI_CHAT,
        Self::OPENAI_RESPONSES,
        Self::ANTHROPIC,
        Self::VERCEL_UI,
        Self::GEMINI,
        Self::MCP,
        Self::OLLAMA,
    ];

    /// Chat completions of OpenAI's API: `data: [DONE]` is the last record, and an error is `data: {"error":{..}}`.
    pub const OPENAI_CHAT: Self = Self::new("openai-chat", StreamKind::Sse)
        .with_last(LastRecord {
            // If the chunk ends with a JSON object, its last record is not `[DONE]`.
            rules_out: |chunk| chunk.ends_with(b"}\n\n"),
            ..LastRecord::new(["[DONE]", "", "", ""], is_done)
        })
        .with_error(|report| format!("data: {}\n\n", json!({ "error": openai(report) })))
        .with_document(|report| json!({ "error": openai(report) }))
        .with_keep_alive(KeepAlive::CommentUnlessIds);

    /// Responses of OpenAI's API: the last record is `response.completed`, `response.failed`, `response.incomplete` or `error`.
    pub const OPENAI_RESPONSES: Self = Self::new("openai-responses", StreamKind::Sse)
        .with_last(LastRecord {
            // A chunk that ends with a string and a brace usually ends with a delta. If that string may be the type of
            // the last record (`completed`, `failed`, `incomplete` or `error`, by its last letter), the chunk is
            // searched.
            rules_out: |chunk| match chunk.strip_suffix(b"\"}\n\n") {
                Some(rest) => !matches!(rest.last(), Some(b'd' | b'e' | b'r')),
                None => false,
            },
            ..LastRecord::new(
                [
                    "response.completed",
                    "response.failed",
                    "response.incomplete",
                    "\"error\"",
                ],
                |record| {
                    let json = record.json();
                    let kind = json.as_ref().and_then(|json| json["type"].as_str());
                    matches!(
                        kind,
                        Some(
                            "response.completed"
                                | "response.failed"
                                | "response.incomplete"
                                | "error"
                        )
                    )
                },
            )
        })
        .with_error(|report| {
            let error = openai(report);
            let event = json!({
                "type": "error",
                "code": error["code"],
                "message": error["message"],
                "param": null,
                "error": error,
            });
            format!("event: error\ndata: {event}\n\n")
        })
        .with_document(|report| json!({ "error": openai(report) }))
        .with_keep_alive(KeepAlive::CommentUnlessIds);

    /// Messages of Anthropic's API: the last record is `event: message_stop`, and an error is `event: error`.
    pub const ANTHROPIC: Self = Self::new("anthropic", StreamKind::Sse)
        .with_last(LastRecord {
            // A chunk that ends in this way ends with a text delta.
            rules_out: |chunk| chunk.ends_with(b"\"}}\n\n"),
            ..LastRecord::new(["message_stop", "", "", ""], |record| {
                record.event() == Some(b"message_stop")
            })
        })
        .with_error(|report| format!("event: error\ndata: {}\n\n", anthropic(report)))
        .with_document(anthropic)
        .with_keep_alive(KeepAlive::Ping);

    /// UI message streams of Vercel's AI SDK: `data: [DONE]` is the last record, and an error is `{"type":"error",..}`.
    pub const VERCEL_UI: Self = Self::new("vercel-ui", StreamKind::Sse)
        .with_last(LastRecord {
            rules_out: |chunk| chunk.ends_with(b"}\n\n"),
            ..LastRecord::new(["[DONE]", "", "", ""], is_done)
        })
        .with_error(|report| {
            let event = json!({ "type": "error", "errorText": report.message() });
            format!("data: {event}\n\n")
        })
        .with_keep_alive(KeepAlive::Comment);

    /// Gemini's API (`streamGenerateContent?alt=sse`): the last record has a candidate with a `finishReason`, and an error is
    /// `data: {"error":{..}}` with a numeric `code` of 400 to 599.
    pub const GEMINI: Self = Self::new("gemini", StreamKind::Sse)
        .with_last(LastRecord {
            // Both names contain an `R`, which is rare in text, and the record with one of them can end as any other does.
            rules_out: |chunk| ends_with_record(RecordFormat::Sse, chunk) && !contains(chunk, b'R'),
            ..LastRecord::new(["finishReason", "blockReason", "", ""], |record| {
                let json = record.json().unwrap_or_default();
                let candidates = json["candidates"].as_array();
                let finished = |candidate: &Value| candidate["finishReason"].is_string();
                candidates.is_some_and(|all| all.iter().any(finished))
                    || json["promptFeedback"]["blockReason"].is_string()
            })
        })
        // npm `@google/genai` 3.3 drops an error without `data:`, unless one read of the socket returns the error
        // alone.
        .with_error(|report| format!("data: {}\n\n", gemini(report)))
        .with_document(gemini)
        .with_keep_alive(KeepAlive::Comment);

    /// The Model Context Protocol of 2025-11-25, streamable HTTP: the last record of the answer to a POST is the JSON-RPC
    /// response. After an event with an `id:` an end without it is none, since the client comes back. A GET has no last record.
    pub const MCP: Self = Self::new("mcp", StreamKind::Sse)
        .with_last(LastRecord {
            resumable: true,
            post_only: true,
            ..LastRecord::new(["id", "", "", ""], |record| {
                let json = record.json().unwrap_or_default();
                let messages = json
                    .as_array()
                    .map_or(std::slice::from_ref(&json), |all| all);
                let responds = |message: &Value| {
                    message.get("id").is_some()
                        && (message.get("result").is_some() || message.get("error").is_some())
                };
                messages.iter().any(responds)
            })
        })
        .with_error(|report| format!("event: message\ndata: {}\n\n", json_rpc(report)))
        .with_document(json_rpc)
        .with_keep_alive(KeepAlive::Comment);

    /// Ollama's own API: the last line has `"done":true`, or `"status":"success"` of a pull, push or create, and an error is
    /// a line with `"error"`.
    pub const OLLAMA: Self = Self::new("ollama", StreamKind::JsonLines)
        .with_last(LastRecord {
            rules_out: |chunk| chunk.ends_with(b"\"done\":false}\n"),
            ..LastRecord::new(["\"done\"", "\"success\"", "", ""], |record| {
                let json = record.json().unwrap_or_default();
                json["done"] == true || json["status"] == "success"
            })
        })
        .with_error(|report| format!("{}\n", ollama(report)))
        .with_document(ollama);
}

/// Returns whether one of these bytes is `byte`.
///
/// `memchr` takes 68 instructions for 64 bytes, because it first finds out which instructions of the processor it can use.
#[inline(always)]
fn contains(chunk: &[u8], byte: u8) -> bool {
    // The compiler compares a block of this length with vectors.
    const BLOCK: usize = 64;
    let end = match chunk.last_chunk::<BLOCK>() {
        Some(end) if chunk.len() <= 4 * BLOCK => end,
        _ => return memchr(byte, chunk).is_some(),
    };
    let has = |block: &[u8; BLOCK]| block.iter().fold(false, |found, at| found | (*at == byte));
    // The last block may overlap the one before it.
    let (blocks, _) = chunk[..chunk.len() - 1].as_chunks();
    has(end) || blocks.iter().any(has)
}

fn is_done(record: &Record<'_>) -> bool {
    record.data().trim_ascii() == b"[DONE]"
}

fn openai(report: &ErrorReport<'_>) -> Value {
    let status = report.status().as_u16();
    let mut error = json!({
        "message": report.message(),
        "type": match status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        },
        "param": null,
        "code": match report.kind() {
            FaultKind::Other => Value::Null,
            kind => kind.as_str().into(),
        },
    });
    if let Some(id) = report.request_id() {
        error["request_id"] = id.as_str().into();
    }
    error
}

fn anthropic(report: &ErrorReport<'_>) -> Value {
    let kind = match report.status().as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        _ => "api_error",
    };
    let mut error = json!({
        "type": "error",
        "error": { "type": kind, "message": report.message() },
    });
    if let Some(id) = report.request_id() {
        error["request_id"] = id.as_str().into();
    }
    error
}

fn gemini(report: &ErrorReport<'_>) -> Value {
    let code = report.status().as_u16();
    // google.rpc.Code
    let status = match code {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    };
    json!({ "error": { "code": code, "message": report.message(), "status": status } })
}

/// The error has no `id`: that of the JSON-RPC request is in the content of the request, which is not read.
fn json_rpc(report: &ErrorReport<'_>) -> Value {
    let code = match report.status().is_client_error() {
        // The code of an invalid request (JSON-RPC specification, section 5.1).
        true => -32600,
        false => -32603,
    };
    json!({ "jsonrpc": "2.0", "id": null, "error": { "code": code, "message": report.message() } })
}

fn ollama(report: &ErrorReport<'_>) -> Value {
    json!({ "error": report.message() })
}
