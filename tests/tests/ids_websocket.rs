//! A websocket through the layers: the 101 stays as it is, and its socket is still of its request.

use std::{error::Error, time::Duration};

use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    response::Response,
    routing::any,
};
use e2e::{LogCapture, PATIENCE, TestServer, serve};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue};
use opentelemetry::{metrics::MeterProvider, trace::TracerProvider};
use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Bytes, Message as Sent, client::IntoClientRequest},
};
use tower_http::compression::CompressionLayer;
use tower_stream::{
    core::Scoped,
    ids::{self, RequestScope},
    prelude::*,
};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::{fmt, layer::SubscriberExt};

type Outcome = Result<(), Box<dyn Error>>;
type Socket = WebSocketStream<TcpStream>;

const NAME: &str = "x-request-id";

async fn plain(upgrade: WebSocketUpgrade) -> Response {
    scoped(upgrade, None)
}

async fn holding(token: DrainToken, upgrade: WebSocketUpgrade) -> Response {
    scoped(upgrade, Some(token))
}

/// axum runs the socket on a task of its own, which does not know of the request unless it is told.
fn scoped(upgrade: WebSocketUpgrade, token: Option<DrainToken>) -> Response {
    let scope = RequestScope::current();
    upgrade.on_upgrade(move |socket| Scoped::new(talk(socket, token), scope))
}

/// Answers what it hears, which a task logs.
async fn talk(mut socket: WebSocket, token: Option<DrainToken>) {
    tracing::info!("opened");
    socket.send(Message::text("hello")).await.expect("it reads");
    while let Some(Ok(heard)) = socket.recv().await {
        if !matches!(heard, Message::Text(_) | Message::Binary(_)) {
            continue;
        }
        let bytes = heard.clone().into_data().len();
        let logged = ids::spawn(async move { tracing::info!(bytes, "heard") });
        logged.await.expect("no panic");
        socket.send(heard).await.expect("it reads");
    }
    tracing::info!("closed");
    drop(token);
}

/// The log of this thread, which is that of the test's runtime.
fn log() -> (LogCapture, DefaultGuard) {
    let log = LogCapture::default();
    let lines = fmt::layer().json().event_format(ids::log::json());
    let lines = lines.with_writer(log.clone());
    let subscriber = tracing_subscriber::registry()
        .with(tracing::level_filters::LevelFilter::INFO)
        .with(lines);
    (log, tracing::subscriber::set_default(subscriber))
}

async fn connect(server: &TestServer, id: Option<&str>) -> (HeaderMap, Socket) {
    let mut request = "ws://a.test/ws".into_client_request().expect("a request");
    if let Some(id) = id {
        let id = HeaderValue::from_str(id).expect("an id");
        request.headers_mut().insert(NAME, id);
    }
    let stream = TcpStream::connect(server.addr()).await;
    // `client_async` checks the status and the headers of the handshake.
    let opened = client_async(request, stream.expect("it listens")).await;
    let (socket, head) = opened.expect("a websocket");
    (head.into_parts().0.headers, socket)
}

/// Both sides are heard, and the socket ends as it should.
async fn use_and_close(mut socket: Socket) -> Outcome {
    let mut said = vec![Sent::text("hello")];
    let binary = Sent::binary(Bytes::from(vec![7; 100_000]));
    for message in [Sent::text("one"), binary, Sent::text("three")] {
        socket.send(message.clone()).await?;
        said.push(message);
    }
    for message in said {
        let heard = socket.next().await.ok_or("it goes on")??;
        assert!(heard == message, "not {} bytes", message.len());
    }
    socket.close(None).await?;
    let rest: Vec<_> = socket.collect().await;
    assert!(matches!(rest[..], [Ok(Sent::Close(_))]), "{rest:?}");
    Ok(())
}

/// The server's side of the socket has ended.
async fn closed(log: &LogCapture) {
    let closed = async {
        while log.json().iter().all(|line| line["message"] != "closed") {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let in_time = timeout(PATIENCE, closed).await;
    assert!(in_time.is_ok(), "{}", log.text());
}

/// The lines of the socket, once it is closed: all of this request, in order.
async fn check_log(log: &LogCapture, id: &str) {
    closed(log).await;
    let mut lines = log.take_json();
    // This is the access log line of the response, whose body ends with the upgrade.
    lines.retain(|line| line["target"] != "tower_stream_trace::access");
    let mut messages: Vec<_> = lines.iter().map(|line| &line["message"]).collect();
    messages.dedup();
    assert_eq!(messages, ["opened", "heard", "closed"], "{lines:?}");
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(
        lines.iter().all(|line| line["request_id"] == id),
        "{lines:?}"
    );
    let numbers: Vec<_> = lines
        .iter()
        .filter_map(|line| line["sequence_id"].as_u64())
        .collect();
    let ascending = numbers.len() == lines.len() && numbers.is_sorted_by(|a, b| a < b);
    assert!(ascending, "{numbers:?}");
}

/// The head of a 101 without any layer.
async fn bare(log: &LogCapture) -> Result<HeaderMap, Box<dyn Error>> {
    let server = serve(Router::new().route("/ws", any(plain))).await?;
    let (head, socket) = connect(&server, Some("unseen")).await;
    use_and_close(socket).await?;
    closed(log).await;
    let lines = log.take_json();
    let known = lines.iter().any(|line| line.get("request_id").is_some());
    assert!(!known, "{lines:?}");
    Ok(head)
}

/// The id of this head, which is there once; nothing else is there that the handler did not set.
fn id_of(mut head: HeaderMap, bare: &HeaderMap) -> String {
    let ids: Vec<_> = head.get_all(NAME).iter().cloned().collect();
    let [id] = &ids[..] else { panic!("{head:?}") };
    head.remove(NAME);
    let mut bare = bare.clone();
    for head in [&mut head, &mut bare] {
        // These headers differ between two handshakes.
        assert!(head.remove("sec-websocket-accept").is_some());
        assert!(head.remove("date").is_some());
    }
    assert_eq!(head, bare);
    id.to_str().expect("ASCII").to_owned()
}

#[tokio::test]
async fn a_websocket_under_request_ids() -> Outcome {
    let (log, _default) = log();
    let bare = bare(&log).await?;
    let app = Router::new().route("/ws", any(plain));
    let server = serve(app.layer(RequestIdLayer::new())).await?;
    for sent in [Some("socket-17"), None] {
        let (head, socket) = connect(&server, sent).await;
        let id = id_of(head, &bare);
        assert_eq!(sent.unwrap_or(&id), id);
        use_and_close(socket).await?;
        check_log(&log, &id).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_websocket_under_the_whole_stack() -> Outcome {
    let (log, _default) = log();
    let bare = bare(&log).await?;
    // The drain lasts longer than the test.
    let drain = Drain::builder()
        .advertise(PATIENCE)
        .deadline(4 * PATIENCE)
        .build();
    let meters = SdkMeterProvider::builder().build();
    let tracers = SdkTracerProvider::builder().build();
    let stack = StreamStack::new()
        .metrics(StreamMetricsLayer::new(&meters.meter("sockets")))
        .chunk_span(ChunkSpanLayer::new(tracers.tracer("sockets")))
        .drain(&drain)
        .digest(DigestLayer::md5())
        .compression(CompressionLayer::new())
        .sequence(SequenceLayer::new())
        .verify(VerifyDigestLayer::md5());
    let server = serve(Router::new().route("/ws", any(holding)).layer(stack)).await?;
    for draining in [false, true] {
        if draining {
            // A 101 is the same during a drain, because it cannot announce the close of its connection.
            drain.start();
        }
        log.take_json();
        let (head, socket) = connect(&server, Some("socket-17")).await;
        assert_eq!(id_of(head, &bare), "socket-17");
        assert_eq!(drain.in_flight(), 1, "the socket holds the drain");
        use_and_close(socket).await?;
        let free = async {
            while drain.in_flight() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, free).await?;
        check_log(&log, "socket-17").await;
    }
    Ok(())
}
