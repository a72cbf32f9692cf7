use axum::{Router, body::Body, http::Request, routing};
use opentelemetry::{
    Context,
    trace::{FutureExt, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_stream_trace::{
    ChunkSpanLayer,
    attribute::{CHUNK_SPAN, GEN_AI_TIME_PER_OUTPUT_TOKEN, GEN_AI_TIME_TO_FIRST_TOKEN},
};

use super::chat_completions;
use crate::{
    Args,
    testing::{Answer, get, send},
};

const PATH: &str = "/v1/chat/completions";

async fn post(path: &str, body: impl Into<Body>) -> Answer {
    send(
        Args::default(),
        Request::post(path).body(body.into()).unwrap(),
    )
    .await
}

/// A request with one user message and the members of `more`.
fn request(more: &Value) -> String {
    let mut request = json!({
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Who is the White Rabbit?"}],
    });
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    request.to_string()
}

async fn whole(more: Value) -> Value {
    let answer = post(PATH, request(&more)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/json");
    answer.json()
}

/// The chunks of a streamed response; `[DONE]` is the last event.
async fn chunks(more: Value) -> Vec<Value> {
    let mut body = more;
    body["stream"] = json!(true);
    let answer = post(&format!("{PATH}?interval_ms=0"), request(&body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    let text = answer.text();
    let mut events: Vec<&str> = text
        .split_terminator("\n\n")
        // Clients of this dialect count the events; an `id:` breaks some of them.
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    events
        .into_iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect()
}

fn text_of(chunks: &[Value]) -> String {
    chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect()
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[tokio::test]
async fn a_whole_answer_has_the_members_that_sdks_read() {
    let answer = whole(json!({"max_tokens": 30})).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "gpt-4o");
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    let choice = &answer["choices"][0];
    assert_eq!(choice["index"], 0);
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["finish_reason"], "length");
    assert!(!content(&answer).is_empty());
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 6, "completion_tokens": 30, "total_tokens": 36})
    );
}

#[tokio::test]
async fn a_stream_gives_role_text_finish_and_done() {
    let chunks = chunks(json!({"max_tokens": 30})).await;
    assert_eq!(chunks.len(), 1 + 30 + 1);
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["model"], "gpt-4o");
        assert_eq!(chunk["id"], chunks[0]["id"]);
        assert_eq!(chunk["choices"][0]["index"], 0);
        assert!(chunk.get("usage").is_none(), "none was asked for");
    }
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    for chunk in &chunks[1..31] {
        assert_eq!(chunk["choices"][0]["finish_reason"], Value::Null);
        assert!(
            !chunk["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap()
                .is_empty()
        );
    }
    assert_eq!(chunks[31]["choices"][0]["delta"], json!({}));
    assert_eq!(chunks[31]["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn usage_comes_last_when_asked_for() {
    let options = json!({"max_tokens": 30, "stream_options": {"include_usage": true}});
    let chunks = chunks(options).await;
    let (last, before) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 30);
    assert_eq!(last["usage"]["total_tokens"], 36);
    assert!(before.iter().all(|chunk| chunk["usage"] == Value::Null));
}

#[tokio::test]
async fn the_same_request_gives_the_same_tokens_streamed_or_not() {
    for more in [
        json!({}),
        json!({"seed": 42}),
        json!({"temperature": 0.2}),
        json!({"stop": ["the"]}),
        json!({"max_completion_tokens": 7}),
    ] {
        let first = whole(more.clone()).await;
        let second = whole(more.clone()).await;
        assert_eq!(content(&first), content(&second));
        assert_ne!(first["id"], second["id"]);
        assert_eq!(text_of(&chunks(more).await), content(&first));
    }
}

#[tokio::test]
async fn another_seed_or_message_gives_another_text() {
    let text = whole(json!({})).await;
    for more in [
        json!({"seed": 1}),
        json!({"messages": [{"role": "user", "content": "Hello"}]}),
        json!({"messages": [{"role": "system", "content": "Who is the White Rabbit?"}]}),
    ] {
        assert_ne!(content(&text), content(&whole(more).await));
    }
}

#[tokio::test]
async fn limits_and_stops_cut_the_same_text() {
    let long = whole(json!({"min_tokens": 200, "max_tokens": 200})).await;
    let short = whole(json!({"min_tokens": 200, "max_tokens": 200, "stop": ["zzz", " a"]})).await;
    let cut = content(&long).find(" a").unwrap();
    assert_eq!(content(&short), &content(&long)[..cut]);
    assert_eq!(short["choices"][0]["finish_reason"], "stop");
    let few = whole(json!({"min_tokens": 200, "max_tokens": 5, "stop": null})).await;
    assert!(content(&long).starts_with(content(&few)));
    assert_eq!(few["usage"]["completion_tokens"], 5);
    let newer = whole(json!({"max_tokens": 50, "max_completion_tokens": 5})).await;
    assert_eq!(newer["usage"]["completion_tokens"], 5);
}

#[tokio::test(start_paused = true)]
async fn interval_ms_paces_the_pieces_of_a_stream() {
    let start = tokio::time::Instant::now();
    let body = request(&json!({"stream": true, "max_tokens": 11}));
    post(&format!("{PATH}?interval_ms=100"), body).await;
    // The finish is delayed like a text chunk, because the model is polled again.
    assert_eq!(start.elapsed().as_millis(), 1_100);
}

#[tokio::test]
async fn messages_may_have_parts_or_no_content_beside_a_tool_call() {
    let answer = whole(json!({"messages": [
        {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief"}]},
        {"role": "assistant", "content": null, "tool_calls": []},
        {"role": "user", "content": ""},
    ]}))
    .await;
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn what_cannot_be_understood_is_an_openai_error_that_names_the_member() {
    let message = |message: Value| json!({"messages": [message]});
    for (more, param) in [
        (json!({"messages": null}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "hi"}), "messages"),
        (message(json!("hi")), "messages[0]"),
        (message(json!({"content": "hi"})), "messages[0].role"),
        (
            message(json!({"role": "robot", "content": "hi"})),
            "messages[0].role",
        ),
        (
            message(json!({"role": 1, "content": "hi"})),
            "messages[0].role",
        ),
        (message(json!({"role": "user"})), "messages[0].content"),
        (
            message(json!({"role": "user", "content": 7})),
            "messages[0].content",
        ),
        (
            message(json!({"role": "user", "content": [{"type": "image_url"}]})),
            "messages[0].content[0]",
        ),
        (
            message(json!({"role": "user", "content": [7]})),
            "messages[0].content[0]",
        ),
        (json!({"model": 4}), "model"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": 20_000}), "max_tokens"),
        (
            json!({"max_completion_tokens": 1.5}),
            "max_completion_tokens",
        ),
        (json!({"min_tokens": -1}), "min_tokens"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"seed": "x"}), "seed"),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": [1]}), "stop"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
        (json!({"stream_options": {}}), "stream_options"),
        (
            json!({"stream": true, "stream_options": 1}),
            "stream_options",
        ),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
        ),
        (json!({"n": 2}), "n"),
        (json!({"logprobs": true}), "logprobs"),
        (
            json!({"response_format": {"type": "json_object"}}),
            "response_format",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
    ] {
        let answer = post(PATH, request(&more)).await;
        assert_eq!(answer.status, 400, "{more}");
        assert_eq!(answer.header("content-type"), "application/json");
        let error = &answer.json()["error"];
        assert_eq!(error["type"], "invalid_request_error", "{more}");
        assert_eq!(error["param"], param, "{more}");
        assert!(error["code"].is_string(), "{more}");
        assert!(
            error["message"].as_str().unwrap().contains(param),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_is_no_request_at_all_is_an_openai_error_too() {
    for (body, word) in [
        ("", "JSON"),
        ("{\"messages\":", "JSON"),
        ("[]", "object"),
        ("{}", "messages"),
    ] {
        let answer = post(PATH, body).await;
        assert_eq!(answer.status, 400, "{body}");
        let message = answer.json()["error"]["message"].clone();
        assert!(message.as_str().unwrap().contains(word), "{message}");
    }
    let large = post(PATH, vec![b' '; 3 * 1024 * 1024]).await;
    assert_eq!(large.status, 413);
    assert_eq!(large.json()["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn what_only_shades_the_text_is_accepted() {
    whole(json!({
        "top_p": 0.9, "presence_penalty": 1, "user": "me", "tools": [], "tool_choice": "auto",
        "n": 1, "logprobs": false, "response_format": {"type": "text"}, "stop": null,
    }))
    .await;
    let unnamed = post(PATH, r#"{"messages":[{"role":"user","content":"hi"}]}"#).await;
    assert_eq!(unnamed.json()["model"], "alice-markov-2");
}

#[tokio::test]
async fn the_query_is_checked_as_everywhere() {
    let body = request(&json!({}));
    for (response, named) in [
        (
            post(&format!("{PATH}?interval_ms=soon"), body.clone()).await,
            "interval_ms",
        ),
        (post(&format!("{PATH}?interval=5"), body).await, "interval"),
        (get("/v1/models?all=1").await, "all"),
    ] {
        assert_eq!(response.status, 400);
        // in OpenAI's form
        let message = response.json()["error"]["message"].to_string();
        assert!(message.contains(named), "{message}");
    }
}

#[tokio::test]
async fn models_lists_the_one_there_is() {
    let models = get("/v1/models").await.json();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], "alice-markov-2");
    assert_eq!(models["data"][0]["object"], "model");
}

/// Every chunk span names the model and the completion.
#[tokio::test]
async fn chunk_spans_name_the_model_and_the_answer() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let tracer = provider.tracer("chat");
    let app = Router::new()
        .route(PATH, routing::post(chat_completions))
        .layer(ChunkSpanLayer::new(tracer.clone()).genai());
    for (stream, chunks) in [(true, 6), (false, 1)] {
        let asked = request(&json!({"model": "alice-x", "max_tokens": 3, "stream": stream}));
        let asked = Request::post(format!("{PATH}?interval_ms=0")).body(Body::from(asked));
        let parent = Context::new().with_span(tracer.start("request"));
        let answered = app
            .clone()
            .oneshot(asked.unwrap())
            .with_context(parent.clone());
        let body = answered.await.unwrap().into_body();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();

        let mut spans = exporter.get_finished_spans().unwrap();
        spans.retain(|span| span.name == CHUNK_SPAN);
        exporter.reset();
        assert_eq!(spans.len(), chunks, "{body}");
        for (index, span) in spans.iter().enumerate() {
            let attribute = |key: &str| {
                let found = span.attributes.iter().find(|kv| kv.key.as_str() == key);
                found
                    .map(|kv| kv.value.as_str().into_owned())
                    .unwrap_or_default()
            };
            assert_eq!(attribute("gen_ai.operation.name"), "chat");
            assert_eq!(attribute("gen_ai.request.model"), "alice-x");
            let id = attribute("gen_ai.response.id");
            assert!(
                id.starts_with("chatcmpl-") && body.contains(&format!("\"id\":\"{id}\"")),
                "{id}"
            );
            let time = if index == 0 {
                GEN_AI_TIME_TO_FIRST_TOKEN
            } else {
                GEN_AI_TIME_PER_OUTPUT_TOKEN
            };
            assert_ne!(attribute(time), "", "{index}: {time}");
        }
    }
}
