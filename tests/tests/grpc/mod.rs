//! What tests with tonic share: a codec that needs no generated code, and a client.

use bytes::{Buf, BufMut, Bytes};
use e2e::TestServer;
use tonic::{
    Request, Status, Streaming,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Endpoint,
};

/// Messages are plain bytes, so nothing has to be generated.
#[derive(Clone, Copy, Default)]
pub(crate) struct Raw;

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

/// A call that has begun, over a connection of its own.
pub(crate) async fn begin(
    server: &TestServer,
    path: &'static str,
) -> Result<Streaming<Bytes>, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.addr())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(path);
    let request = Request::new(Bytes::from("ask"));
    let answer = client.server_streaming(request, path, Raw).await?;
    Ok(answer.into_inner())
}

/// The messages that came, and the status that ended the call.
pub(crate) async fn call(server: &TestServer, path: &'static str) -> (Vec<Bytes>, Status) {
    let mut answer = match begin(server, path).await {
        Ok(answer) => answer,
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
