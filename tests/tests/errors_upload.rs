//! A client that leaves while it uploads what is echoed is no failure of the server. A process of its own: it has a
//! subscriber.

use std::{error::Error, io};

use axum::{
    Router,
    body::Body,
    http::{self, header},
    response::{IntoResponse, Response},
    routing::{any, post},
};
use e2e::{LogCapture, Request, TestServer, h1, h2, serve};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tower::layer::layer_fn;
use tower_stream_core::{
    Exchange, StreamEnd,
    mock::{self, MockBody},
    wrapper::{Begin, Hook, Stage, Wrapped},
};
use tower_stream_errors::ErrorWriterLayer;

type Outcome = Result<(), Box<dyn Error>>;
type Ends = mpsc::UnboundedSender<String>;

#[derive(Clone)]
struct Tell(Ends);

impl Hook for Tell {
    type Stage = Self;

    fn on_request<B>(&self, _: &mut http::Request<B>, _: &Exchange) -> Begin<Self> {
        Begin::Follow(self.clone())
    }
}

impl Stage for Tell {
    fn on_end(&mut self, end: &StreamEnd) {
        let _ = self.0.send(format!(
            "{} {}",
            end.outcome(),
            end.error_type().unwrap_or_default()
        ));
    }
}

async fn echo(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// As [`echo`], by a handler that reads the stream and wraps its error.
async fn by_hand(body: Body) -> Response {
    let chunks = body
        .into_data_stream()
        .map(|chunk| chunk.map_err(io::Error::other));
    Body::from_stream(chunks).into_response()
}

/// What a handler gives on of an upstream that was cut.
async fn upstream() -> Body {
    let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "the upstream closed");
    Body::new(MockBody::new([
        mock::data("data: 1\n\n"),
        mock::pending(),
        mock::error(cut),
    ]))
}

async fn start() -> io::Result<(TestServer, mpsc::UnboundedReceiver<String>)> {
    let (ends, ended) = mpsc::unbounded_channel();
    let app = Router::new()
        .route("/echo", post(echo))
        .route("/by-hand", post(by_hand))
        .route("/upstream", any(upstream))
        .layer(ErrorWriterLayer::new())
        .layer(layer_fn(move |inner| {
            Wrapped::new(inner, Tell(ends.clone()))
        }));
    Ok((serve(app).await?, ended))
}

fn log() -> LogCapture {
    let log = LogCapture::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::INFO)
        .with_writer(log.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).expect("one test");
    log
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_upload_is_no_failure() -> Outcome {
    let log = log();
    let (server, mut ended) = start().await?;
    for path in ["/echo", "/by-hand"] {
        for framing in ["Content-Length: 99", "Transfer-Encoding: chunked"] {
            for resets in [false, true] {
                let mut client = h1::Connection::open(server.addr()).await?;
                let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
                client.send_raw(head.as_bytes()).await?;
                client.send_raw(b"9\r\ndata: 1\n\n\r\n").await?;
                client.reply().await?.chunk().await;
                match resets {
                    true => client.reset()?,
                    false => drop(client),
                }
                let end = ended.recv().await.unwrap();
                assert_eq!(end, "aborted dropped", "{path} {framing} {resets}");
            }
        }
        for whole_connection in [false, true] {
            let mut client = h2::Connection::open(server.addr()).await?;
            let mut stream = client.send_open(&Request::new("POST", path)).await?;
            stream.send_data("data: 1\n\n", false)?;
            let mut reply = stream.reply().await?;
            reply.chunk().await;
            match whole_connection {
                true => drop(client),
                false => reply.reset(h2::Reason::CANCEL),
            }
            let end = ended.recv().await.unwrap();
            assert_eq!(end, "aborted dropped", "{path} {whole_connection}");
        }
    }
    assert_eq!(log.text(), "", "anyone can fill the log");

    // A complete upload is echoed completely.
    let mut client = h1::Connection::open(server.addr()).await?;
    client
        .send(&Request::post("/by-hand", "data: 1\n\n"))
        .await?;
    assert_eq!(client.reply().await?.finish().await.text(), "data: 1\n\n");
    assert_eq!(ended.recv().await.unwrap(), "complete ");

    // An I/O error of an upstream is a failure of the server, although it is of the same kind.
    client.send(&Request::post("/upstream", "abc")).await?;
    client.reply().await?.finish().await;
    assert_eq!(ended.recv().await.unwrap(), "error io");
    assert_eq!(log.json()[0]["level"], "ERROR");
    Ok(())
}
