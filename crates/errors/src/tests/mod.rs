//! The layer around scripted bodies. What clients receive is tested over sockets in the package `e2e`.

mod channel;
mod dialect;
mod head;
mod idle;
mod offsets;
mod outcome;
mod panics;
mod tail;

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_core::{
    BoxError, Exchange,
    mock::{MockBody, Step},
};

use crate::ErrorWriterLayer;

/// What came out of a layer.
#[derive(Debug)]
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    frames: Vec<String>,
    trailers: Option<HeaderMap>,
    error: Option<BoxError>,
}

impl Seen {
    fn text(&self) -> String {
        self.frames.concat()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

async fn read<B>(response: Response<B>) -> Seen
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (parts, body) = response.into_parts();
    let mut body = Box::pin(body);
    let mut seen = Seen {
        status: parts.status,
        headers: parts.headers,
        frames: Vec::new(),
        trailers: None,
        error: None,
    };
    // Like a server, does not poll a body again once `is_end_stream` is true.
    while !body.is_end_stream() {
        match body.frame().await {
            None => break,
            Some(Err(error)) => {
                seen.error = Some(error.into());
                assert!(body.frame().await.is_none(), "goes on after an error");
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => seen
                    .frames
                    .push(String::from_utf8_lossy(&data).into_owned()),
                Err(frame) => seen.trailers = frame.into_trailers().ok(),
            },
        }
    }
    seen
}

/// A handler that answers with this, once.
fn once<B>(
    response: Response<B>,
) -> impl Service<Request<()>, Response = Response<B>, Error = Infallible> {
    let mut response = Some(response);
    service_fn(move |_: Request<()>| {
        let response = response.take().unwrap();
        async move { Ok::<_, Infallible>(response) }
    })
}

/// Sends `request` to a handler that answers at once with `response`.
async fn send(
    layer: &ErrorWriterLayer,
    request: Request<()>,
    response: Response<MockBody>,
) -> Seen {
    let service = once(response);
    read(layer.layer(service).oneshot(request).await.unwrap()).await
}

/// A response of this content type with a body that plays these steps.
fn answer(content_type: &str, steps: impl IntoIterator<Item = Step>) -> Response<MockBody> {
    Response::builder()
        .header("content-type", content_type)
        .body(MockBody::new(steps))
        .unwrap()
}

/// `GET /` with a request id, over HTTP/2.
fn get() -> Request<()> {
    let mut request = Request::new(());
    *request.version_mut() = http::Version::HTTP_2;
    Exchange::of(request.extensions_mut()).set_request_id("id-1".parse().unwrap());
    request
}

const SSE: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";
const BYTES: &str = "application/octet-stream";

/// What the default writer says under `error` of a failure of [`get`].
fn told(kind: &str, status: u16) -> String {
    let message = match kind {
        "timeout" => "the response took too long",
        "drain" => "the server is going away",
        "digest_mismatch" => "the content did not match its digest",
        _ => "the response failed on the server",
    };
    format!(
        r#"{{"error":{{"kind":"{kind}","message":"{message}","request_id":"id-1","status":{status}}}}}"#
    )
}
