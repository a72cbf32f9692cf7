//! The layers around scripted bodies.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_core::{
    PeerAddr,
    mock::{self, MockBody},
};

mod adaptive;
mod bad_input;
mod breaker;
mod limit;
mod mixed;
mod waiting;

/// A handler that begins to answer in its first poll, and counts how many responses exist at once.
#[derive(Clone, Debug, Default)]
struct Origin {
    begun: Arc<AtomicUsize>,
}

impl Origin {
    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }
}

impl Service<Request<()>> for Origin {
    type Response = Response<MockBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<MockBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let begun = Arc::clone(&self.begun);
        Box::pin(async move {
            begun.fetch_add(1, Ordering::Relaxed);
            let path = request.uri().path();
            let status = path.rsplit('/').next().and_then(|text| text.parse().ok());
            let mut response = Response::new(match () {
                () if path.starts_with("/die") => {
                    MockBody::new([mock::data("a"), mock::error("broken")])
                }
                () if path.starts_with("/panic") => {
                    MockBody::new([mock::data("a"), mock::panic("scripted")])
                }
                () if path.starts_with("/hang") => MockBody::new([mock::data("a"), mock::hang()]),
                () => MockBody::new([mock::data("a"), mock::data("b")]),
            });
            if path.starts_with("/lost") {
                std::future::pending::<()>().await;
            }
            if path.starts_with("/upgrade") {
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            }
            if let Some(status) = status {
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
            }
            Ok(response)
        })
    }
}

fn get(path: &str) -> Request<()> {
    Request::get(path).body(()).unwrap()
}

fn from(peer: &str, path: &str) -> Request<()> {
    let mut request = get(path);
    let peer: SocketAddr = peer.parse().unwrap();
    request.extensions_mut().insert(PeerAddr(peer));
    request
}

/// A response of a service under test.
async fn send<S, B>(service: &S, request: Request<()>) -> Response<B>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
{
    match service.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn header<B>(response: &Response<B>, name: &str) -> String {
    let value = response.headers().get(name);
    value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
}
