//! Compressed streams on the wire: what a client can read, and when.

use std::{collections::HashMap, io::Write, sync::Arc};

use axum::{Router, body::Body, http::header, routing::get};
use demo_server::Args;
use e2e::{Chunk, End, Protocol, Request, h1, h2, serve, start_demo};
use futures_util::{StreamExt, stream};
use md5::{Digest, Md5};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tower_stream::{
    StreamStack,
    coalesce::CoalesceLayer,
    compress::{Coding, CompressLayer, CompressionSwitch, Settings},
    digest::DigestLayer,
};

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

const CODINGS: [Coding; 3] = [Coding::Gzip, Coding::Br, Coding::Zstd];

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a client can read of the bytes so far.
enum Decoder {
    Written(Box<dyn Write + Send>, Sink),
    Zstd(zstd_safe::DCtx<'static>),
}

impl Decoder {
    fn new(coding: Coding) -> Self {
        let sink = Sink::default();
        match coding {
            Coding::Gzip => {
                Self::Written(Box::new(flate2::write::GzDecoder::new(sink.clone())), sink)
            }
            Coding::Br => Self::Written(
                Box::new(brotli::DecompressorWriter::new(sink.clone(), 4096)),
                sink,
            ),
            Coding::Zstd => Self::Zstd(zstd_safe::DCtx::create()),
        }
    }

    fn read(&mut self, data: &[u8]) -> String {
        let read = match self {
            Self::Written(decoder, sink) => {
                decoder.write_all(data).expect("it decodes");
                decoder.flush().expect("it decodes");
                std::mem::take(&mut *sink.0.lock())
            }
            Self::Zstd(decoder) => {
                let mut input = zstd_safe::InBuffer::around(data);
                let mut out = Vec::new();
                loop {
                    out.reserve(64 * 1024);
                    let at = out.len();
                    let mut output = zstd_safe::OutBuffer::around_pos(&mut out, at);
                    let decoded = decoder.decompress_stream(&mut output, &mut input);
                    decoded.expect("it decodes");
                    if input.pos() == data.len() && out.len() < out.capacity() {
                        break out;
                    }
                }
            }
        };
        String::from_utf8(read).expect("text")
    }
}

enum Reply<'a> {
    H1(h1::Reply<'a>),
    H2(h2::Reply),
}

impl Reply<'_> {
    async fn chunk(&mut self) -> Option<Chunk> {
        match self {
            Self::H1(reply) => reply.chunk().await,
            Self::H2(reply) => reply.chunk().await,
        }
    }

    fn coding(&self) -> Option<&str> {
        let head = match self {
            Self::H1(reply) => reply.head(),
            Self::H2(reply) => reply.head(),
        };
        head.headers.get("content-encoding")
    }

    async fn finish(self) -> End {
        match self {
            Self::H1(reply) => reply.finish().await.end,
            Self::H2(reply) => reply.finish().await.end,
        }
    }
}

/// Reads until this much text has been decoded.
async fn read(reply: &mut Reply<'_>, decoder: &mut Decoder, length: usize) -> String {
    let mut text = String::new();
    while text.len() < length {
        let chunk = reply.chunk().await.expect("more data");
        text += &decoder.read(&chunk.data);
    }
    text
}

/// The handler sends an event when the client has read the one before it. A layer that holds one back would hang here.
async fn one_by_one(mut reply: Reply<'_>, coding: Coding, events: &mpsc::Sender<String>) {
    assert_eq!(reply.coding(), Some(coding.as_str()));
    let mut decoder = Decoder::new(coding);
    for n in 0..40 {
        let event = format!("data: event {n} of 40\n\n");
        events.send(event.clone()).await.expect("the handler reads");
        assert_eq!(read(&mut reply, &mut decoder, event.len()).await, event);
    }
}

#[tokio::test]
async fn each_event_is_readable_before_the_next_is_sent() -> Outcome {
    for coding in CODINGS {
        let (sender, receiver) = mpsc::channel(1);
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        let handler = move || async move {
            let events = stream::unfold(receiver, |receiver| async move {
                let event: Option<String> = receiver.lock().await.recv().await;
                event.map(|event| (Ok::<_, std::io::Error>(event), receiver))
            });
            (
                [(header::CONTENT_TYPE, "text/event-stream")],
                Body::from_stream(events),
            )
        };
        let compression = CompressLayer::new().settings(Settings::on());
        let stack = StreamStack::new()
            .compress(compression)
            .coalesce(CoalesceLayer::new());
        let server = serve(Router::new().route("/", get(handler)).layer(stack)).await?;
        let request = Request::get("/").header("accept-encoding", coding.as_str());
        {
            let mut connection = h1::Connection::open(server.addr()).await?;
            connection.send(&request).await?;
            // The head leaves with the first event.
            sender.send("data: begin\n\n".to_owned()).await?;
            let mut reply = Reply::H1(connection.reply().await?);
            let mut decoder = Decoder::new(coding);
            assert_eq!(read(&mut reply, &mut decoder, 13).await, "data: begin\n\n");
            for n in 0..40 {
                let event = format!("data: event {n} of 40\n\n");
                sender.send(event.clone()).await?;
                assert_eq!(read(&mut reply, &mut decoder, event.len()).await, event);
            }
        }
        let mut connection = h2::Connection::open(server.addr()).await?;
        let reply = connection.send(&request).await?.reply().await?;
        one_by_one(Reply::H2(reply), coding, &sender).await;
    }
    Ok(())
}

/// Ids of requests and drains differ.
fn comparable(text: &str) -> String {
    let line = |line: &str| match line.split_once("\"request_id\":\"") {
        Some((before, after)) => format!("{before}{}", &after[after.find('"').unwrap_or(0)..]),
        None => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn error_records_and_heartbeats_are_readable_in_every_coding() -> Outcome {
    let server = start_demo(Args {
        heartbeat: std::time::Duration::from_millis(20),
        idle_timeout: std::time::Duration::from_millis(150),
        ..Args::default()
    })
    .await?;
    for path in [
        "/fail?how=panic-body&after=2",
        "/fail?how=error-body&after=2&format=ndjson",
        "/fail?how=hang&after=2",
        "/events?count=5&interval_ms=1",
        "/lines?count=2000&interval_ms=0",
    ] {
        for protocol in [Protocol::Http11, Protocol::Http2] {
            let request = Request::get(path);
            let plain = protocol.send(server.public_addr(), &request).await?;
            assert!(plain.end.is_whole() && plain.header("content-encoding").is_none());
            let beats = |text: &str| text.matches(": heartbeat").count();
            let without = |text: &str| {
                let lines = text.lines().filter(|line| !line.starts_with(':'));
                comparable(
                    &lines
                        .filter(|line| !line.is_empty())
                        .collect::<Vec<_>>()
                        .join("\n"),
                )
            };
            for coding in CODINGS {
                let request = Request::get(path).header("accept-encoding", coding.as_str());
                let response = protocol.send(server.public_addr(), &request).await?;
                assert!(response.end.is_whole(), "{path} {coding}: {}", response.end);
                assert_eq!(response.header("content-encoding"), Some(coding.as_str()));
                let text = Decoder::new(coding).read(&response.body());
                assert_eq!(without(&text), without(&plain.text()), "{path} {coding}");
                if path.contains("hang") {
                    assert!(beats(&text) > 0, "{text}");
                }
            }
        }
    }
    Ok(())
}

/// A drain's last event, and the end of the coding after it.
#[tokio::test]
async fn a_farewell_is_readable_in_every_coding() -> Outcome {
    for coding in CODINGS {
        let server = start_demo(Args {
            advertise: std::time::Duration::ZERO,
            deadline: std::time::Duration::from_millis(100),
            ..Args::default()
        })
        .await?;
        let mut connection = h1::Connection::open(server.public_addr()).await?;
        let request = Request::get("/events?count=0&interval_ms=10");
        let request = request.header("accept-encoding", coding.as_str());
        connection.send(&request).await?;
        let mut reply = Reply::H1(connection.reply().await?);
        let mut decoder = Decoder::new(coding);
        let mut text = read(&mut reply, &mut decoder, 1).await;
        let report = tokio::spawn(server.shutdown());
        while let Some(chunk) = reply.chunk().await {
            text += &decoder.read(&chunk.data);
        }
        assert!(text.contains("event: drain\n"), "{coding}: {text}");
        assert_eq!(reply.finish().await, End::LastChunk);
        assert!(report.await??.is_clean());
    }
    Ok(())
}

/// The text of a stream of events that wait for each other.
fn numbered() -> String {
    (0..20)
        .map(|n| format!("data: event {n} of 20\n\n"))
        .collect()
}

fn numbered_app(switch: &mut Option<CompressionSwitch>) -> Router {
    let compression = CompressLayer::new();
    *switch = Some(compression.switch());
    let handler = || async {
        let events = stream::iter(0..20).then(|n| async move {
            tokio::task::yield_now().await;
            Ok::<_, std::io::Error>(format!("data: event {n} of 20\n\n"))
        });
        (
            [(header::CONTENT_TYPE, "text/event-stream")],
            Body::from_stream(events),
        )
    };
    let stack = StreamStack::new()
        .compress(compression)
        .digest(DigestLayer::md5());
    Router::new().route("/", get(handler)).layer(stack)
}

/// A thousand switches, each while eight streams are being read: all of them are whole, and have the coding of their head.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_switches_under_load_break_no_stream() -> Outcome {
    let mut switch = None;
    let server = serve(numbered_app(&mut switch)).await?;
    let (switch, address) = (switch.expect("set"), server.addr());
    let (progress, mut reads) = mpsc::channel::<()>(1);
    let readers: Vec<_> = (0..8)
        .map(|reader| {
            let progress = progress.clone();
            tokio::spawn(async move {
                let mut seen = HashMap::new();
                let request = Request::get("/").header("accept-encoding", "gzip, br, zstd");
                let mut h1 = h1::Connection::open(address).await.expect("a connection");
                let mut h2 = h2::Connection::open(address).await.expect("a connection");
                // Ends when there has been the last switch.
                loop {
                    let mut reply = match reader % 2 {
                        0 => {
                            h1.send(&request).await.expect("it is sent");
                            Reply::H1(h1.reply().await.expect("a head"))
                        }
                        _ => {
                            let pending = h2.send(&request).await.expect("it is sent");
                            Reply::H2(pending.reply().await.expect("a head"))
                        }
                    };
                    let coding = CODINGS
                        .into_iter()
                        .find(|coding| reply.coding() == Some(coding.as_str()));
                    assert_eq!(coding.is_some(), reply.coding().is_some());
                    let mut decoder = coding.map(Decoder::new);
                    let mut text = String::new();
                    let mut over = false;
                    while let Some(chunk) = reply.chunk().await {
                        text += &match &mut decoder {
                            Some(decoder) => decoder.read(&chunk.data),
                            None => String::from_utf8(chunk.data.to_vec()).expect("text"),
                        };
                        over |= progress.send(()).await.is_err();
                    }
                    assert_eq!(text, numbered(), "{coding:?}");
                    assert!(reply.finish().await.is_whole(), "{coding:?}");
                    *seen.entry(coding).or_insert(0_usize) += 1;
                    if over {
                        return seen;
                    }
                }
            })
        })
        .collect();
    drop(progress);
    for n in 0..1_000 {
        reads.recv().await.expect("the readers go on");
        let one = |coding, level| Settings::on().codings([(coding, level)]);
        switch.set(match n % 5 {
            0 => Settings::off(),
            1 => one(Coding::Gzip, 1),
            2 => one(Coding::Zstd, 3),
            3 => Settings::adaptive(),
            _ => one(Coding::Br, 4),
        });
    }
    drop(reads);
    let mut seen = HashMap::new();
    for reader in readers {
        for (coding, count) in reader.await? {
            *seen.entry(coding).or_insert(0) += count;
        }
    }
    // Identity and each coding.
    assert_eq!(seen.len(), 4, "{seen:?}");
    let stats = switch.stats();
    assert_eq!((stats.streams, stats.memory), (0, 0));
    Ok(())
}

/// The digest is that of the bytes that are sent, and the text is whole.
#[tokio::test]
async fn the_digest_is_of_the_encoded_bytes() -> Outcome {
    let server = serve(numbered_app(&mut None)).await?;
    for coding in CODINGS {
        let request = Request::get("/").header("accept-encoding", coding.as_str());
        let response = Protocol::Http2.send(server.addr(), &request).await?;
        assert_eq!(response.header("content-encoding"), Some(coding.as_str()));
        assert_eq!(Decoder::new(coding).read(&response.body()), numbered());
        let announced = response
            .header("x-content-md5")
            .or(response.trailer("x-content-md5"));
        let digest = hex::encode(Md5::digest(response.body()));
        assert_eq!(announced, Some(digest.as_str()), "{coding}");
    }
    Ok(())
}

/// 100 KB of garbage, garbage before a good member, and clients that accept nothing: each gets a response that it can read.
#[tokio::test]
async fn a_bad_accept_encoding_gets_identity_or_what_it_names() -> Outcome {
    let server = serve(numbered_app(&mut None)).await?;
    let garbage = "\"x;q=0.5,, ;q=".repeat(8_000);
    assert!(garbage.len() > 100_000);
    let named = "deflate;q=0.5, ".repeat(7_000) + "gzip";
    for (accepted, coding) in [
        (";;q=, \"", None),
        ("identity;q=0", None),
        ("*;q=0, identity;q=0", None),
        ("dcb, deflate, compress", None),
        (&garbage, None),
        (&named, Some(Coding::Gzip)),
        (",,;q=1, gzip;q=7, br;q=0.001", Some(Coding::Br)),
    ] {
        let request = Request::get("/").header("accept-encoding", accepted);
        let response = Protocol::Http11.send(server.addr(), &request).await?;
        assert_eq!(response.status(), 200);
        assert!(response.end.is_whole(), "{}", response.end);
        assert_eq!(
            response.header("content-encoding"),
            coding.map(Coding::as_str)
        );
        let text = match coding {
            Some(coding) => Decoder::new(coding).read(&response.body()),
            None => response.text(),
        };
        assert_eq!(text, numbered());
    }
    Ok(())
}

/// A body that the handler has encoded arrives byte for byte.
#[tokio::test]
async fn what_is_encoded_already_passes_unchanged() -> Outcome {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(numbered().as_bytes())?;
    let encoded = encoder.finish()?;
    let body = encoded.clone();
    let handler = move || async move {
        let head = [
            ("content-type", "text/event-stream"),
            ("content-encoding", "gzip"),
        ];
        let parts: Vec<_> = body.chunks(100).map(<[u8]>::to_vec).collect();
        let frames = stream::iter(parts).map(Ok::<_, std::io::Error>);
        (head, Body::from_stream(frames))
    };
    let stack = StreamStack::new()
        .compress(CompressLayer::new())
        .coalesce(CoalesceLayer::new());
    let server = serve(Router::new().route("/", get(handler)).layer(stack)).await?;
    for protocol in [Protocol::Http11, Protocol::Http2] {
        let request = Request::get("/").header("accept-encoding", "br, zstd, gzip");
        let response = protocol.send(server.addr(), &request).await?;
        assert_eq!(response.header("content-encoding"), Some("gzip"));
        assert_eq!(response.body(), encoded);
    }
    Ok(())
}
