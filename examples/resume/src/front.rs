//! What the client is connected to: stands for a load balancer.

use std::{error::Error, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use eventsource_stream::Eventsource;
use futures_util::{Stream, StreamExt, stream};
use tower_stream::resume::{Memory, Resume};

/// Passes each request on to the first server that answers. A response whose server dies breaks off.
pub(crate) fn pass(servers: [SocketAddr; 2]) -> Router {
    let client = reqwest::Client::new();
    let handler = move |request: Request| async move {
        for server in servers {
            let url = format!("http://{server}{}", request.uri());
            let headers = request.headers().clone();
            if let Ok(answer) = client.get(url).headers(headers).send().await {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = answer.status();
                if let Some(value) = answer.headers().get(CONTENT_TYPE) {
                    response.headers_mut().insert(CONTENT_TYPE, value.clone());
                }
                return response.map(|_| Body::from_stream(answer.bytes_stream()));
            }
        }
        StatusCode::BAD_GATEWAY.into_response()
    };
    Router::new().route("/chat/{chat}", get(handler))
}

/// Keeps the streams in memory, and lets them go on at the other server when one dies. The front itself must not.
pub(crate) fn keep(servers: [SocketAddr; 2]) -> Router {
    let resume = Resume::builder(Memory::new()).build();
    let handler = move |Path(chat): Path<String>| async move {
        let events = Body::from_stream(events(servers, chat));
        ([(CONTENT_TYPE, "text/event-stream")], events)
    };
    Router::new()
        .route("/chat/{chat}", get(handler))
        .layer(resume.layer())
}

/// The events of a chat, from one server after the other.
fn events(
    servers: [SocketAddr; 2],
    chat: String,
) -> impl Stream<Item = Result<String, Box<dyn Error + Send + Sync>>> + Send {
    let client = reqwest::Client::new();
    // How many whole events are there, and which server gives the next one.
    let start = (0_u64, servers.into_iter().cycle().take(6), None);
    stream::try_unfold(start, move |(count, mut servers, mut from)| {
        let (client, chat) = (client.clone(), chat.clone());
        async move {
            loop {
                let Some(mut events) = from.take() else {
                    let server = servers.next().ok_or("no server is left")?;
                    let url = format!("http://{server}/chat/{chat}/after/{count}");
                    if let Ok(answer) = client.get(url).send().await {
                        from = Some(Box::pin(answer.bytes_stream().eventsource()));
                    }
                    continue;
                };
                match events.next().await {
                    Some(Ok(event)) => {
                        let text = format!("data: {}\n\n", event.data);
                        return Ok(Some((text, (count + 1, servers, Some(events)))));
                    }
                    None => return Ok(None),
                    // The server died. The event that was cut comes whole from the next one.
                    Some(Err(_)) => {}
                }
            }
        }
    })
}
