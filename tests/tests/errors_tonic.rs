//! What a tonic client is told of a tonic service that fails: the status, after every message that came before.

mod grpc;

use std::{convert::Infallible, error::Error, time::Duration};

use bytes::Bytes;
use e2e::{TestServer, serve};
use futures_util::{Stream, StreamExt, stream};
use grpc::{Raw, call};
use hyper::body::Incoming;
use tonic::{Code, Request, Response, Status};
use tower::{ServiceBuilder, service_fn};
use tower_stream_errors::{ErrorWriterLayer, IdleTimeoutLayer};

type Outcome = Result<(), Box<dyn Error>>;

/// Two messages, then what the path says.
fn messages(path: &str) -> impl Stream<Item = Result<Bytes, Status>> + Send + use<> {
    let path = path.to_owned();
    stream::unfold(0, move |n| {
        let path = path.clone();
        async move {
            // Yield, so that each message becomes a frame of its own.
            tokio::task::yield_now().await;
            match path.as_str() {
                _ if n < 2 && path != "/t.T/First" => {}
                "/t.T/Later" | "/t.T/First" => panic!("the secret"),
                "/t.T/Hang" => std::future::pending().await,
                "/t.T/Own" => {
                    let own = Status::resource_exhausted("mine");
                    return (n == 2).then_some((Err(own), n + 1));
                }
                _ => return None,
            }
            Some((Ok(Bytes::from(format!("message {n}"))), n + 1))
        }
    })
}

async fn handle(
    request: http::Request<Incoming>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    let path = request.uri().path().to_owned();
    assert_ne!(path, "/t.T/Handler", "the secret");
    let method = service_fn(move |_: Request<Bytes>| {
        let messages = messages(&path).boxed();
        async move { Ok::<_, Status>(Response::new(messages)) }
    });
    let mut server = tonic::server::Grpc::new(Raw);
    Ok(server.server_streaming(method, request).await)
}

async fn server() -> std::io::Result<TestServer> {
    let layers = ServiceBuilder::new()
        .layer(ErrorWriterLayer::new())
        .layer(IdleTimeoutLayer::new(Duration::from_millis(300)));
    serve(layers.service(service_fn(handle))).await
}

#[tokio::test]
async fn a_client_gets_the_messages_and_the_status() -> Outcome {
    let server = server().await?;
    for (path, messages, code, text) in [
        ("/t.T/Fine", 2, Code::Ok, ""),
        ("/t.T/Own", 2, Code::ResourceExhausted, "mine"),
        (
            "/t.T/Later",
            2,
            Code::Internal,
            "the response failed on the server",
        ),
        (
            "/t.T/First",
            0,
            Code::Internal,
            "the response failed on the server",
        ),
        (
            "/t.T/Handler",
            0,
            Code::Internal,
            "the response failed on the server",
        ),
        (
            "/t.T/Hang",
            2,
            Code::DeadlineExceeded,
            "the response took too long",
        ),
    ] {
        let (got, status) = call(&server, path).await;
        assert_eq!(
            (got.len(), status.code(), status.message()),
            (messages, code, text),
            "{path}"
        );
    }
    Ok(())
}
