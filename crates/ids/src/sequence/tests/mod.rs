//! The layer around scripted bodies.

use super::{json::JsonStamper, sse::SseStamper, *};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_stream_core::{
    BoxError, Exchange, Sequence,
    mock::{self, MockBody},
    wrapper::ResponseBody,
};

mod events;
mod members;
mod numbers;
mod passing;
mod resuming;

fn response<B>(content_type: &str, body: B) -> Response<B> {
    Response::builder()
        .header(header::CONTENT_TYPE, content_type)
        .body(body)
        .unwrap()
}

fn request() -> Request<()> {
    let mut request = Request::new(());
    Exchange::of(request.extensions_mut()).set_request_id("r1".parse().unwrap());
    request
}

async fn through<B>(
    layer: SequenceLayer,
    request: Request<()>,
    response: Response<B>,
) -> Response<ResponseBody<B, SequenceLayer>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut response = Some(response);
    let inner = service_fn(move |_: Request<()>| {
        std::future::ready(Ok::<_, BoxError>(response.take().unwrap()))
    });
    ServiceBuilder::new()
        .layer(layer)
        .service(inner)
        .oneshot(request)
        .await
        .unwrap()
}

/// The frames that the layer returns for these chunks.
async fn frames(layer: SequenceLayer, content_type: &str, chunks: &[&[u8]]) -> Vec<Bytes> {
    let steps = chunks
        .iter()
        .map(|chunk| mock::data(Bytes::copy_from_slice(chunk)));
    let body = through(
        layer,
        request(),
        response(content_type, MockBody::new(steps)),
    )
    .await
    .into_body();
    let mut body = std::pin::pin!(body);
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(frame.unwrap().into_data().unwrap());
    }
    frames
}

async fn text(layer: SequenceLayer, content_type: &str, chunks: &[&str]) -> String {
    let chunks: Vec<&[u8]> = chunks.iter().map(|chunk| chunk.as_bytes()).collect();
    let all = frames(layer, content_type, &chunks).await.concat();
    String::from_utf8(all).unwrap()
}

async fn sse(input: &str) -> String {
    text(SequenceLayer::new(), "text/event-stream", &[input]).await
}
