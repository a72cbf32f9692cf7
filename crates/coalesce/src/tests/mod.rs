//! Streams with a [`CoalesceLayer`] and a paused clock.

mod ends;
mod frames;
mod linger;

use std::{convert::Infallible, pin::Pin};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, SizeHint};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_stream_core::{
    mock::{self, MockBody, Step},
    wrapper::ResponseBody,
};

use crate::CoalesceLayer;

type Body = Pin<Box<ResponseBody<MockBody, CoalesceLayer>>>;

async fn under(layer: CoalesceLayer, body: MockBody) -> Body {
    answered(layer, Request::new(()), Response::new(body)).await
}

async fn answered(
    layer: CoalesceLayer,
    request: Request<()>,
    response: Response<MockBody>,
) -> Body {
    let mut response = Some(response);
    let service = service_fn(move |_: Request<()>| {
        let response = response.take().unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    let response = layer.layer(service).oneshot(request).await.unwrap();
    Box::pin(response.into_body())
}

/// Each frame as text, and an error as its message after a `!`.
async fn read(body: &mut Body) -> Vec<String> {
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => String::from_utf8(data.to_vec()).unwrap(),
            Ok(Err(frame)) => format!("{:?}", frame.into_trailers().unwrap()),
            Err(error) => format!("!{error}"),
        });
    }
    frames
}

async fn sent(layer: CoalesceLayer, steps: impl IntoIterator<Item = Step>) -> Vec<String> {
    read(&mut under(layer, MockBody::new(steps)).await).await
}
