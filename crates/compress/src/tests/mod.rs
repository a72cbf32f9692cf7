//! Streams with a [`CompressLayer`].

mod decoder;
mod head;
mod memory;
mod stream;

use std::{convert::Infallible, pin::Pin};

use http::{Request, Response};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_stream_core::{
    mock::{self, MockBody, Step},
    wrapper::ResponseBody,
};

use self::decoder::Decoder;
use crate::{Coding, CompressLayer, Settings};

type Body = Pin<Box<ResponseBody<MockBody, CompressLayer>>>;

/// Those that this build has.
fn codings() -> impl Iterator<Item = Coding> {
    Coding::ALL
        .into_iter()
        .filter(|coding| coding.is_available())
}

fn events(steps: impl IntoIterator<Item = Step>) -> Response<MockBody> {
    let response = Response::builder().header("content-type", "text/event-stream");
    response.body(MockBody::new(steps)).unwrap()
}

fn request(accepted: &str) -> Request<()> {
    let request = Request::builder().header("accept-encoding", accepted);
    request.body(()).unwrap()
}

async fn asked(
    layer: &CompressLayer,
    request: Request<()>,
    response: Response<MockBody>,
) -> Response<Body> {
    let mut response = Some(response);
    let service = service_fn(move |_: Request<()>| {
        let response = response.take().unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    let response = layer.layer(service).oneshot(request).await.unwrap();
    response.map(Box::pin)
}

/// The body of a response with this coding.
async fn encoded(layer: &CompressLayer, coding: Coding, response: Response<MockBody>) -> Body {
    let response = asked(layer, request(coding.as_str()), response).await;
    assert_eq!(response.headers()["content-encoding"], coding.as_str());
    response.into_body()
}
