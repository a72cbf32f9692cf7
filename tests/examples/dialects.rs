//! A server that speaks each dialect and ends as it is told: `/{dialect}/{ending}/...`. For `tests/clients`.
//!
//! `own` is a dialect as an application defines it for itself, for clients that read any server-sent events.
//!
//! Endings: `whole`; `failed` (the body fails in the middle); `incomplete` (it ends cleanly without its last record);
//! `drained` (the server shuts down in the middle); `late` (the body fails behind the last record).
//!
//! `/lockstep/{key}/..` is a chat completion of ten chunks, compressed and coalesced. Each chunk but the first one is made after a
//! `POST /next/{key}`, which its reader sends when it has read the one before.

use std::{collections::HashMap, convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::StatusCode,
    response::{Html, IntoResponse, Response},
    routing::{any, post},
};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_stream::{
    StreamStack,
    coalesce::CoalesceLayer,
    compress::CompressLayer,
    core::{Dialect, StreamKind},
    drain::Drain,
    errors::{DialectLayer, ErrorWriterLayer},
};

/// What a stream of the dialect says, record by record. The last one is the last record.
struct Script {
    dialect: Dialect,
    content_type: &'static str,
    records: &'static [&'static str],
}

const SSE: &str = "text/event-stream";

fn script(name: &str) -> Option<Script> {
    let (dialect, content_type, records): (_, _, &'static [&'static str]) = match name {
        "openai-chat" => (
            Dialect::OPENAI_CHAT,
            SSE,
            &[
                "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hi\"},\"finish_reason\":null}]}\n\n",
                "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
                "data: [DONE]\n\n",
            ],
        ),
        "openai-responses" => (
            Dialect::OPENAI_RESPONSES,
            SSE,
            &[
                "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"r\",\"object\":\"response\",\"status\":\"in_progress\",\"output\":[]}}\n\n",
                "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"item_id\":\"i\",\"output_index\":0,\"content_index\":0,\"delta\":\"Hi\",\"logprobs\":[]}\n\n",
                "event: response.completed\ndata: {\"type\":\"response.completed\",\"sequence_number\":2,\"response\":{\"id\":\"r\",\"object\":\"response\",\"status\":\"completed\",\"output\":[]}}\n\n",
            ],
        ),
        "anthropic" => (
            Dialect::ANTHROPIC,
            SSE,
            &[
                "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n",
                "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
                "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n",
                "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
                "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":2}}\n\n",
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            ],
        ),
        "vercel-ui" => (
            Dialect::VERCEL_UI,
            SSE,
            &[
                "data: {\"type\":\"start\"}\n\n",
                "data: {\"type\":\"text-start\",\"id\":\"t\"}\n\n",
                "data: {\"type\":\"text-delta\",\"id\":\"t\",\"delta\":\"Hi\"}\n\n",
                "data: {\"type\":\"text-end\",\"id\":\"t\"}\n\n",
                "data: {\"type\":\"finish\"}\n\n",
                "data: [DONE]\n\n",
            ],
        ),
        "gemini" => (
            Dialect::GEMINI,
            SSE,
            &[
                "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hi\"}],\"role\":\"model\"},\"index\":0}]}\n\n",
                "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"!\"}],\"role\":\"model\"},\"finishReason\":\"STOP\",\"index\":0}]}\n\n",
            ],
        ),
        "ollama" => (
            Dialect::OLLAMA,
            "application/x-ndjson",
            &[
                "{\"model\":\"m\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\",\"content\":\"Hi\"},\"done\":false}\n",
                "{\"model\":\"m\",\"created_at\":\"2026-01-01T00:00:00Z\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\"}\n",
            ],
        ),
        "own" => (OWN, SSE, &["data: a\n\n", "data: b\n\n", "data: [END]\n\n"]),
        // The id is that of the request, see `rpc`.
        "mcp" => (
            Dialect::MCP,
            SSE,
            &[
                "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"Hi\"}}\n\n",
                "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":ID,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"!\"}],\"isError\":false}}\n\n",
            ],
        ),
        _ => return None,
    };
    Some(Script {
        dialect,
        content_type,
        records,
    })
}

/// The last record and errors are events without a name, which every client delivers.
const OWN: Dialect = Dialect::new("own", StreamKind::Sse)
    .with_last_record("[END]", |record| *record.data() == *b"[END]")
    .with_error(|report| format!("data: {}\n\n", json!({ "error": report.message() })));

/// What the handler gives. The pause is for the client, which is to have read each record before the next one.
fn stream_of(script: &Script, id: &str, ending: &str) -> Body {
    let records: Vec<_> = script
        .records
        .iter()
        .map(|record| record.replacen("ID", id, 1))
        .collect();
    let given = match ending {
        "failed" | "drained" => 1,
        "incomplete" => records.len() - 1,
        _ => records.len(),
    };
    let given = stream::iter(records.into_iter().take(given)).then(|record| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok::<_, io::Error>(record)
    });
    let failure = stream::once(async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Err(io::Error::other("the backend is gone"))
    });
    match ending {
        "failed" | "late" => Body::from_stream(given.chain(failure)),
        "drained" => Body::from_stream(given.chain(stream::pending())),
        _ => Body::from_stream(given),
    }
}

/// What a client of the Model Context Protocol asks before it calls a tool. `Err`: a call, with its id.
async fn rpc(request: &mut Request) -> Result<Response, String> {
    let body = std::mem::take(request.body_mut());
    let body = axum::body::to_bytes(body, 1 << 20)
        .await
        .unwrap_or_default();
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let result = match message["method"].as_str() {
        Some("initialize") => json!({
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": { "tools": {}, "logging": {} },
            "serverInfo": { "name": "s", "version": "1" },
        }),
        Some("tools/list") => {
            json!({ "tools": [{ "name": "t", "inputSchema": { "type": "object" } }] })
        }
        Some("tools/call") => return Err(message["id"].to_string()),
        // A notification, or the GET and DELETE of a session, of which there are none.
        Some(_) => return Ok(StatusCode::ACCEPTED.into_response()),
        None => return Ok(StatusCode::METHOD_NOT_ALLOWED.into_response()),
    };
    let response = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
    let content_type = [("content-type", "application/json")];
    Ok((content_type, response.to_string()).into_response())
}

async fn answer(mut request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let mut segments = path.split('/').skip(1);
    let script = segments.next().and_then(script);
    let (Some(script), Some(ending)) = (script, segments.next()) else {
        // Also for Chromium, which needs a page of this origin to read from.
        return (StatusCode::NOT_FOUND, Html("<!doctype html>not found")).into_response();
    };
    let mut id = String::new();
    if script.dialect.name() == Dialect::MCP.name() {
        match rpc(&mut request).await {
            Ok(response) => return response,
            Err(of_call) => id = of_call,
        }
    }
    // Each request has a drain of its own.
    let drain = Drain::builder()
        .advertise(Duration::ZERO)
        .deadline(Duration::from_millis(200))
        .build();
    let service = ServiceBuilder::new()
        .layer(DialectLayer::new(script.dialect))
        .layer(drain.layer())
        .layer(ErrorWriterLayer::new())
        .layer(drain.farewell())
        .service(service_fn(async |_: Request| {
            let content_type = [("content-type", script.content_type)];
            let body = stream_of(&script, &id, ending);
            Ok::<_, Infallible>((content_type, body).into_response())
        }));
    let Ok(response) = service.oneshot(request).await;
    if ending == "drained" {
        drain.start();
    }
    response.map(Body::new)
}

/// How many chunks the reader of each key may have.
#[derive(Clone, Default)]
struct Lockstep(Arc<Mutex<HashMap<String, Arc<Semaphore>>>>);

impl Lockstep {
    fn permits(&self, key: &str) -> Arc<Semaphore> {
        let mut keys = self.0.lock();
        let new = || Arc::new(Semaphore::new(1));
        Arc::clone(keys.entry(key.to_owned()).or_insert_with(new))
    }
}

async fn next(State(lockstep): State<Lockstep>, Path(key): Path<String>) {
    lockstep.permits(&key).add_permits(1);
}

/// Each chunk is three frames that are ready together.
async fn lockstep(
    State(lockstep): State<Lockstep>,
    Path((key, _)): Path<(String, String)>,
) -> Response {
    let permits = lockstep.permits(&key);
    let chunks = stream::iter(0..10).then(move |n| {
        let permits = Arc::clone(&permits);
        async move {
            if let Ok(permit) = permits.acquire().await {
                permit.forget();
            }
            let chunk = format!(
                "{{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\
                 \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{n}\"}},\"finish_reason\":null}}]}}"
            );
            stream::iter(["data: ".to_owned(), chunk, "\n\n".to_owned()])
        }
    });
    let done = stream::iter(["data: [DONE]\n\n".to_owned()]);
    let frames = chunks.flatten().chain(done).map(Ok::<_, io::Error>);
    let content_type = [("content-type", SSE)];
    (content_type, Body::from_stream(frames)).into_response()
}

#[allow(clippy::print_stdout)] // the address, for the script
#[tokio::main]
async fn main() -> io::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("listening {}", listener.local_addr()?);
    let both = StreamStack::new()
        .compress(CompressLayer::new())
        .coalesce(CoalesceLayer::new());
    let app = Router::new()
        .route("/lockstep/{key}/{*rest}", any(lockstep).layer(both))
        .route("/next/{key}", post(next))
        .with_state(Lockstep::default())
        .fallback(answer);
    axum::serve(listener, app).await
}
