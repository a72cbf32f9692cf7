//! The layers around scripted services.

use std::{
    collections::HashSet,
    convert::Infallible,
    future::pending,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use parking_lot::Mutex;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_stream_core::{
    mock::{self, MockBody},
    wrapper::ResponseBody,
};

use super::*;

mod calls;
mod head;
mod life;

const NAME: &str = "x-request-id";

fn request(ids: &[&[u8]]) -> Request<()> {
    let mut request = Request::new(());
    for id in ids {
        let value = HeaderValue::from_bytes(id).unwrap();
        request.headers_mut().append(NAME, value);
    }
    request
}

/// What the handler received: the header values, the extension, the scope.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    headers: Vec<String>,
    extension: Option<String>,
    scope: Option<String>,
}

impl Seen {
    fn of<B>(request: &Request<B>) -> Self {
        let lines = request.headers().get_all(NAME).iter();
        Self {
            headers: lines.map(|v| format!("{v:?}").replace('"', "")).collect(),
            extension: RequestId::of(request.extensions()).map(ToString::to_string),
            scope: current(),
        }
    }
}

fn current() -> Option<String> {
    RequestScope::current()
        .request_id()
        .map(ToString::to_string)
}

/// Sends a request. Returns what the handler received and the id header of the response.
async fn serve(layer: &RequestIdLayer, request: Request<()>) -> (Seen, Vec<String>) {
    let seen = Arc::new(Mutex::new(None));
    let inner = {
        let seen = Arc::clone(&seen);
        service_fn(move |request: Request<()>| {
            *seen.lock() = Some(Seen::of(&request));
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        })
    };
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    let lines = response.headers().get_all(NAME).iter();
    let sent = lines.map(|v| v.to_str().unwrap().to_owned()).collect();
    (seen.lock().take().unwrap(), sent)
}

#[test]
fn layers_and_futures_can_be_shared() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sync<T: Send + Sync>() {}
    shared::<RequestIdLayer>();
    shared::<SequenceLayer>();
    shared::<ForwardRequestIdLayer>();
    shared::<RequestScope>();
    sync::<ResponseBody<ResponseBody<Full<Bytes>, SequenceLayer>, RequestIdLayer>>();
}
