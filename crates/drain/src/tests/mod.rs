//! The layers with a scripted body and a paused clock.

mod balance;
mod farewell;
mod figures;
mod layer;
mod ordinary;
mod spread;
mod states;

use std::{convert::Infallible, future::Future, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tower::{Service, ServiceExt};
use tower_stream_core::{mock::MockBody, wrapper::ResponseBody};

use crate::{Drain, DrainLayer, FarewellLayer};

/// A body with both layers.
type Drained = ResponseBody<ResponseBody<MockBody, FarewellLayer>, DrainLayer>;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Advertises for one second and is over after five.
fn drain() -> Drain {
    Drain::builder()
        .advertise(SECOND)
        .deadline(5 * SECOND)
        .build()
}

fn get(path: &str) -> Request<MockBody> {
    Request::get(path).body(MockBody::new([])).unwrap()
}

/// A service that responds to each request with the result of `answer`.
fn service<F, Fut, B>(
    answer: F,
) -> impl Service<Request<MockBody>, Response = Response<B>, Error = Infallible, Future: Send> + Clone
where
    F: Fn(Request<MockBody>) -> Fut + Clone,
    Fut: Future<Output = Response<B>> + Send,
{
    tower::service_fn(move |request| {
        let answer = answer(request);
        async move { Ok(answer.await) }
    })
}

async fn call<S, B>(service: &S, request: Request<MockBody>) -> Response<B>
where
    S: Service<Request<MockBody>, Response = Response<B>, Error = Infallible> + Clone,
{
    service.clone().oneshot(request).await.unwrap()
}

/// The bytes up to the end or the failure, and the failure.
async fn read<B>(body: B) -> (String, Option<String>)
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = std::pin::pin!(body);
    let mut text = Vec::new();
    let mut error = None;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => text.extend(frame.into_data().unwrap_or_default()),
            Err(failure) => error = Some(failure.to_string()),
        }
    }
    (String::from_utf8(text).unwrap(), error)
}
