//! `POST /api/chat` and `GET /api/chat/{id}/stream`: a chat in the form of npm `ai`, which asks for the stream of a chat by the id of the
//! chat.

use axum::{
    Extension,
    body::Body,
    extract::{Path, RawQuery, Request, State as Shared, rejection::BytesRejection},
    http::{HeaderName, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tower_stream_resume::StreamKey;

use crate::{
    State,
    model::{MODEL, Sampling},
    problem::Problem,
    query::Query,
    records::Records,
    reply,
};

/// What the transport of npm `ai` posts, without the rest.
#[derive(Deserialize)]
struct Chat {
    id: String,
    messages: Vec<Value>,
}

/// Names the protocol of the stream.
const PROTOCOL: HeaderName = HeaderName::from_static("x-vercel-ai-ui-message-stream");

/// A message of `words` words, `interval_ms` apart, whose text depends on the number of messages. The stream has the id of the chat as its
/// key.
pub(crate) async fn chat(
    RawQuery(raw): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let mut query = Query::parse(raw.as_deref())?;
    let words = query.number("words", 60, 1..=1_000_000)?;
    let interval = query.interval(20)?;
    query.finish()?;
    let body = body.map_err(|refused| Problem::new(refused.status(), refused.body_text()))?;
    let chat: Chat = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;

    let message = format!("{:016x}", fastrand::u64(..));
    let mut tokens = MODEL.generate(Sampling {
        seed: chat.messages.len() as u64,
        temperature: 1.0,
        min_tokens: words,
    });
    // Before the words: `start` and `text-start`. After them: `text-end`, `finish` and `[DONE]`.
    let body = Records::new(Some(words + 5), interval, move |n| {
        let chunk = match n {
            0 => json!({ "type": "start", "messageId": message }),
            1 => json!({ "type": "text-start", "id": "text" }),
            n if n < words + 2 => {
                let token = tokens.next().unwrap_or_default();
                json!({ "type": "text-delta", "id": "text", "delta": token })
            }
            n if n == words + 2 => json!({ "type": "text-end", "id": "text" }),
            n if n == words + 3 => json!({ "type": "finish" }),
            _ => return Bytes::from_static(b"data: [DONE]\n\n"),
        };
        Bytes::from(format!("data: {chunk}\n\n"))
    });
    let stream = reply::stream(reply::EVENTS, Body::new(body));
    let key = Extension(StreamKey::new(chat.id));
    Ok((key, [(PROTOCOL, "v1")], stream).into_response())
}

/// The stream of this chat from its start, if one runs; else 204.
pub(crate) async fn running(
    Shared(state): Shared<State>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    Query::parse(request.uri().query()).and_then(Query::finish)?;
    let (request, _) = request.into_parts();
    Ok(match &state.resume {
        Some(resume) => resume.key(&request, id).await.into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::{Args, ResumeLog, app};

    async fn send(app: &Router, request: Request) -> Response {
        app.clone().oneshot(request).await.unwrap()
    }

    fn running() -> Request {
        let request = Request::get("/api/chat/7/stream");
        request.body(Body::empty()).unwrap()
    }

    fn posted(body: &'static str) -> Request {
        let request = Request::post("/api/chat?words=3").header("content-type", "application/json");
        request.body(Body::from(body)).unwrap()
    }

    async fn text(response: Response) -> String {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    const CHAT: &str = r#"{"id":"7","messages":[{"role":"user","parts":[]}],"trigger":"x"}"#;

    #[tokio::test(start_paused = true)]
    async fn the_stream_of_a_chat_is_found_by_its_id() {
        let app = app(&State::new(Args::default()).unwrap());
        assert_eq!(send(&app, running()).await.status(), 204);
        let first = send(&app, posted(CHAT)).await;
        let second = send(&app, running()).await;
        assert_eq!(second.headers()[PROTOCOL], "v1");
        assert_eq!(second.headers()["stream-id"], first.headers()["stream-id"]);
        let whole = text(first).await;
        assert_eq!(whole.matches("text-delta").count(), 3);
        assert!(whole.ends_with("{\"type\":\"finish\"}\n\ndata: [DONE]\n\n"));
        assert_eq!(text(second).await, whole);
        assert_eq!(send(&app, running()).await.status(), 204);
        let bad = send(&app, posted("{}")).await;
        assert_eq!(bad.status(), 400);
    }

    #[tokio::test]
    async fn without_a_log_no_stream_runs() {
        let args = Args {
            resume: ResumeLog::Off,
            ..Args::default()
        };
        let app = app(&State::new(args).unwrap());
        let _first = send(&app, posted(CHAT)).await;
        assert_eq!(send(&app, running()).await.status(), 204);
    }
}
