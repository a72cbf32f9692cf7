//! What a tonic client is told of a tonic service that fails: the status, after every message that came before.

use std::{convert::Infallible, error::Error, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use e2e::{TestServer, serve};
use futures_util::{Stream, StreamExt, stream};
use hyper::body::Incoming;
use tonic::{
    Code, Request, Response, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Endpoint,
};
use tower::{ServiceBuilder, service_fn};
use tower_stream_errors::{ErrorWriterLayer, IdleTimeoutLayer};

type Outcome = Result<(), Box<dyn Error>>;

/// Messages are plain bytes, so nothing has to be generated.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

/// Two messages, then what the path says.
fn messages(path: &str) -> impl Stream<Item = Result<Bytes, Status>> + Send + use<> {
    let path = path.to_owned();
    stream::unfold(0, move |n| {
        let path = path.clone();
        async move {
            // each message is a frame of its own
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

/// The messages that came, and the status that ended the call.
async fn call(server: &TestServer, path: &'static str) -> (Vec<Bytes>, Status) {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.addr())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(path);
    let request = Request::new(Bytes::from("ask"));
    let mut answer = match client.server_streaming(request, path, Raw).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return (Vec::new(), status),
    };
    let mut messages = Vec::new();
    loop {
        match answer.message().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return (messages, Status::ok("")),
            Err(status) => return (messages, status),
        }
    }
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
