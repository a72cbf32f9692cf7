//! Streams with a [`HeartbeatLayer`] and a paused clock.

mod records;
mod stream;
mod untouched;

use std::{convert::Infallible, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_stream_core::{
    Exchange,
    mock::{self, MockBody, Step},
    wrapper::ResponseBody,
};

use crate::{Heartbeat, HeartbeatLayer};

const COMMENT: &str = ": heartbeat\n\n";
const ALONE: &str = ": heartbeat\n";

type Body = Pin<Box<ResponseBody<MockBody, HeartbeatLayer>>>;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn layer() -> HeartbeatLayer {
    HeartbeatLayer::new().interval(seconds(8))
}

/// A response with `content_type` whose body plays these steps.
fn events(steps: impl IntoIterator<Item = Step>) -> Response<MockBody> {
    let response = Response::builder().header("content-type", "text/event-stream");
    response.body(MockBody::new(steps)).unwrap()
}

async fn under(layer: &HeartbeatLayer, response: Response<MockBody>) -> Response<Body> {
    asked(layer, Request::new(()), response).await
}

async fn asked(
    layer: &HeartbeatLayer,
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

/// The frames of the next `time`, each with its second.
async fn read(body: &mut Body, time: Duration) -> Vec<(u64, String)> {
    let start = Instant::now();
    let mut frames = Vec::new();
    let reads = async {
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap_or_default();
            let text = String::from_utf8_lossy(&data).into_owned();
            frames.push((start.elapsed().as_secs(), text));
        }
    };
    let _ = timeout(time, reads).await;
    frames
}

/// The frames in the first minute of an event stream.
async fn sent(layer: &HeartbeatLayer, steps: impl IntoIterator<Item = Step>) -> String {
    let mut body = under(layer, events(steps)).await.into_body();
    let frames = read(&mut body, seconds(60)).await;
    frames.into_iter().map(|(_, text)| text).collect()
}

fn bytes(text: &'static [u8]) -> Step {
    mock::data(Bytes::from_static(text))
}
