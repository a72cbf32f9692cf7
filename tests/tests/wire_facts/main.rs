//! What hyper, h2 and axum do on the wire, and the layers rest on. No layer of ours is here.
//!
//! A test that turns red after an update of those crates means that a design must be read again.

mod closing;
mod failures;
mod framing;
mod polling;

use std::{error::Error, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::IntoResponse};
use e2e::{End, Protocol, Request, Response, TestServer, serve};
use parking_lot::Mutex;
use tower_stream_core::mock::{MockBody, Probe, Step};

type Outcome = Result<(), Box<dyn Error>>;

const FLUSH: Duration = Duration::from_millis(5);

/// Answers the first request with this body, any other with 404.
async fn once(body: MockBody) -> (TestServer, Probe) {
    with_head(body, |_| {}).await
}

async fn with_head(
    body: MockBody,
    head: impl Fn(&mut http::Response<Body>) + Clone + Send + Sync + 'static,
) -> (TestServer, Probe) {
    let probe = body.probe();
    let body = Arc::new(Mutex::new(Some(body)));
    let handler = async move || match body.lock().take() {
        Some(body) => {
            let mut response = Body::new(body).into_response();
            head(&mut response);
            response
        }
        None => http::StatusCode::NOT_FOUND.into_response(),
    };
    let server = serve(Router::new().fallback(handler))
        .await
        .expect("a free port");
    (server, probe)
}

/// What one GET of a fresh server with this script gives.
async fn play<const N: usize>(
    protocol: Protocol,
    script: impl Fn() -> [Step; N],
) -> Result<Response, End> {
    let (server, _) = once(MockBody::new(script())).await;
    protocol.send(server.addr(), &Request::get("/")).await
}
