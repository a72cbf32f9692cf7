//! The two routes.

use axum::{
    body::Body,
    extract::{RawQuery, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::json;

use super::{
    MODEL_CREATED, MODEL_ID,
    answer::{Head, Usage},
    error::ApiError,
    request::ChatRequest,
    stream::ChatStream,
};
use crate::{
    model::{Completion, MODEL},
    query::Query,
    reply,
};

/// `POST /v1/chat/completions`.
///
/// `interval_ms` is the time between two chunks of a streamed response; an unstreamed one is sent at once.
pub(crate) async fn chat_completions(
    RawQuery(raw): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let interval = Query::parse(raw.as_deref()).and_then(|mut query| {
        let interval = query.interval(20)?;
        query.finish().map(|()| interval)
    });
    let interval = match interval {
        Ok(interval) => interval,
        Err(problem) => return problem.into_response(),
    };
    let request = match body
        .map_err(|rejection| unreadable(&rejection))
        .and_then(|body| ChatRequest::parse(&body))
    {
        Ok(request) => request,
        Err(error) => return error.into_response(),
    };
    let completion = Completion::new(
        MODEL.generate(request.sampling),
        request.max_tokens,
        request.stop.clone(),
    );
    let head = Head::new(&request);
    let chunks = head.chunk_attributes();
    let mut response = if request.stream {
        let stream = ChatStream::new(head, &request, completion, interval);
        reply::stream(reply::EVENTS, Body::new(stream))
    } else {
        whole(&head, &request, completion)
    };
    response.extensions_mut().insert(chunks);
    response
}

fn whole(head: &Head, request: &ChatRequest, mut completion: Completion) -> Response {
    let mut text = String::new();
    let finish = loop {
        match completion.next_piece() {
            Ok(piece) => text.push_str(&piece),
            Err(finish) => break finish,
        }
    };
    let usage = Usage::new(request.prompt_tokens, &completion);
    let answer = head.completion(&text, finish, usage);
    reply::json_text("application/json", StatusCode::OK, answer)
}

/// The request body is too large, or ended early.
fn unreadable(rejection: &BytesRejection) -> ApiError {
    ApiError {
        status: rejection.status(),
        message: rejection.body_text(),
        param: None,
        code: None,
    }
}

/// `GET /v1/models`.
pub(crate) async fn models(RawQuery(raw): RawQuery) -> Response {
    if let Err(problem) = Query::parse(raw.as_deref()).and_then(Query::finish) {
        return problem.into_response();
    }
    reply::json(
        StatusCode::OK,
        &json!({
            "object": "list",
            "data": [{
                "id": MODEL_ID,
                "object": "model",
                "created": MODEL_CREATED,
                "owned_by": "tower-stream",
            }],
        }),
    )
}
