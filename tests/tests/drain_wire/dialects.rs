//! Streams that have given the last record of their dialect when the drain ends them: nothing is written behind it.

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    Extension, Router,
    body::Body,
    extract::Path,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use e2e::{End, Protocol, Request, Response as Received, h1, h2};
use futures_util::{StreamExt, future::try_join_all, stream};
use tokio::{net::TcpListener, sync::Barrier};
use tower_stream_core::{Dialect, StreamKind};
use tower_stream_errors::ErrorWriterLayer;

use super::{MS, Outcome, drain};

const PROTOCOLS: [Protocol; 2] = [Protocol::Http11, Protocol::Http2];

/// A record of the dialect, and its last one.
fn records(name: &str) -> [&'static str; 2] {
    match name {
        "openai-chat" => [
            "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n",
            "data: [DONE]\n\n",
        ],
        "openai-responses" => [
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n",
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{}}\n\n",
        ],
        "anthropic" => [
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"Hi\"}}\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        ],
        "vercel-ui" => [
            "data: {\"type\":\"text-delta\",\"id\":\"t\",\"delta\":\"Hi\"}\n\n",
            "data: [DONE]\n\n",
        ],
        "gemini" => [
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hi\"}]}}]}\n\n",
            "data: {\"candidates\":[{\"finishReason\":\"STOP\"}]}\n\n",
        ],
        "mcp" => [
            "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n",
            "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n",
        ],
        "ollama" => [
            "{\"message\":{\"content\":\"Hi\"},\"done\":false}\n",
            "{\"message\":{\"content\":\"\"},\"done\":true}\n",
        ],
        name => panic!("the dialect {name} has no records here"),
    }
}

/// The first `count` records of a dialect, and then nothing, for ever.
async fn answer(Path((name, count)): Path<(String, usize)>) -> Response {
    let Some(dialect) = Dialect::VENDORS.iter().find(|known| known.name() == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let content_type = match dialect.kind() {
        StreamKind::JsonLines => "application/x-ndjson",
        _ => "text/event-stream",
    };
    let given = stream::iter(records(&name)).take(count);
    let body = given.map(Ok::<_, Infallible>).chain(stream::pending());
    let named = ([(CONTENT_TYPE, content_type)], Extension(*dialect));
    (named, Body::from_stream(body)).into_response()
}

/// Reads until the handler has said all that it says. When each client is there, reads the rest.
async fn read(
    addr: SocketAddr,
    protocol: Protocol,
    path: &str,
    given: usize,
    ready: &Barrier,
) -> Result<Received, Box<dyn std::error::Error>> {
    let request = Request::post(path, "{}");
    let mut length = 0;
    if protocol == Protocol::Http2 {
        let mut connection = h2::Connection::open(addr).await?;
        let mut reply = connection.send(&request).await?.reply().await?;
        while length < given {
            length += reply.chunk().await.ok_or("it ended early")?.data.len();
        }
        ready.wait().await;
        return Ok(reply.finish().await);
    }
    let mut connection = h1::Connection::open(addr).await?;
    connection.send(&request).await?;
    let mut reply = connection.reply().await?;
    while length < given {
        length += reply.chunk().await.ok_or("it ended early")?.data.len();
    }
    ready.wait().await;
    Ok(reply.finish().await)
}

#[tokio::test]
async fn nothing_is_written_behind_the_last_record() -> Outcome {
    let drain = drain().advertise(MS).deadline(500 * MS).build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let app = Router::new()
        .route("/{name}/{count}", post(answer))
        .layer(drain.farewell())
        .layer(ErrorWriterLayer::new())
        .layer(drain.layer());
    let serving = tower_stream_serve::serve(listener, app)
        .drain(&drain)
        .without_signals();
    let serving = tokio::spawn(serving.into_future());

    let cases: Vec<_> = Dialect::VENDORS
        .iter()
        .flat_map(|dialect| [1, 2].map(|count| (dialect.name(), count)))
        .flat_map(|(name, count)| PROTOCOLS.map(|protocol| (name, count, protocol)))
        .collect();
    let ready = Barrier::new(cases.len() + 1);
    let clients = cases.iter().map(|&(name, count, protocol)| {
        let given = records(name)[..count].concat();
        let ready = &ready;
        async move {
            let path = format!("/{name}/{count}");
            read(addr, protocol, &path, given.len(), ready).await
        }
    });
    let begin = async {
        ready.wait().await;
        drain.start();
        Ok(())
    };
    let (answers, ()) = tokio::try_join!(try_join_all(clients), begin)?;

    for ((name, count, protocol), answer) in cases.iter().zip(&answers) {
        let given = records(name)[..*count].concat();
        let text = answer.text();
        let whole = match protocol {
            Protocol::Http2 => End::EndStream,
            _ => End::LastChunk,
        };
        let place = format!("{name} over {protocol:?}: {text}");
        assert_eq!(answer.end, whole, "{place}");
        let rest = text.strip_prefix(&given).ok_or(place.clone())?;
        // A stream without its last record gets a farewell in the form of its dialect.
        assert_eq!(rest.is_empty(), *count == 2, "{place}");
        assert_eq!(rest.contains("shutting down"), *count == 1, "{place}");
    }
    let report = serving.await??;
    let half = cases.len() as u64 / 2;
    assert_eq!(
        (
            report.stats.served,
            report.stats.ended_early,
            report.stats.aborted
        ),
        (half, half, 0),
        "{report}"
    );
    Ok(())
}
