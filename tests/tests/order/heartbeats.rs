//! Heartbeats in every order of layers: the client has them, and nobody takes one for a chunk or for a sign of life.

use std::time::Duration;

use axum::{Router, body::Body, extract, response::IntoResponse, routing::get};
use e2e::{Protocol, Request};
use fastrand::Rng;
use futures_util::{StreamExt, stream};
use opentelemetry_sdk::trace::SpanData;
use tower_stream::{core::Exchange, metrics::names};

use crate::{
    layers::{Piece, Served, Stack, Telemetry},
    run::{PROTOCOLS, Place, are_over},
    wire::unzipped,
};

/// As short as the layer takes.
const INTERVAL: Duration = Duration::from_millis(4);
const HEARTBEAT: &str = ": heartbeat\n";

/// Two events, and between them some heartbeats.
fn waits() -> Router {
    let handler = async |request: extract::Request| {
        let exchange = Exchange::get(request.extensions()).cloned();
        let exchange = exchange.expect("a layer of ours is there");
        let parts = stream::iter(["data: 1\n\n", "data: 2\n\n"]).enumerate();
        let paced = parts.then(move |(index, part)| {
            let exchange = exchange.clone();
            async move {
                while index == 1 && exchange.heartbeats() < 3 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok::<_, std::io::Error>(part)
            }
        });
        let body = Body::from_stream(paced);
        ([("content-type", "text/event-stream")], body).into_response()
    };
    Router::new().route("/waits", get(handler))
}

fn number(spans: &[SpanData], key: &str) -> Option<String> {
    let attributes = spans.iter().flat_map(|span| &span.attributes);
    let found = { attributes }.find(|kv| kv.key.as_str() == key);
    found.map(|kv| kv.value.to_string())
}

async fn two_chunks(mut stack: Stack, protocol: Protocol) {
    stack.heartbeat = INTERVAL;
    let _place = Place::new(&stack, protocol, "heartbeats");
    let telemetry = Telemetry::new();
    let served = Served::serving(waits(), stack.clone(), &telemetry).await;
    let mut request = Request::get("/waits");
    if stack.has(Piece::Gzip) {
        request = request.header("accept-encoding", "gzip");
    }
    let seen = protocol.send(served.server.addr(), &request).await;
    let seen = seen.expect("a head");
    are_over(&served, 1).await;

    let (text, finished) = unzipped(&seen);
    assert!(finished && seen.end.is_whole(), "{}", seen.end);
    assert!(text.matches(HEARTBEAT).count() >= 3, "{text:?}");
    let stamps = stack.has(Piece::Sequence) && !stack.is_inside(Piece::Gzip, Piece::Sequence);
    let (events, blank) = match stamps {
        true => ("data: 1\nid: 1\n\ndata: 2\nid: 2\n\n", ""),
        false => ("data: 1\n\ndata: 2\n\n", "\n"),
    };
    // The heartbeat layer does not know of ids that a layer outside adds, and writes a blank line after its comment.
    let plain = text.replace(&format!("{HEARTBEAT}\n"), "");
    assert_eq!(plain.replace(HEARTBEAT, ""), events);
    if stack.is_inside(Piece::Sequence, Piece::Heartbeat) || !stamps {
        let beats = text.matches(&format!("{HEARTBEAT}{blank}")).count();
        assert!(beats >= 3, "{text:?}");
    }

    let outside = |piece| stack.is_inside(Piece::Heartbeat, piece);
    let spans = telemetry.finished_spans();
    if stack.has(Piece::RequestSpan) {
        assert_eq!(number(&spans, "stream.chunks").as_deref(), Some("2"));
        let told = number(&spans, "stream.heartbeats").is_some();
        assert_eq!(told, outside(Piece::RequestSpan));
    }
    // Frames that leave an encoder are not those of the handler, so only layers without an encoder inside count them.
    let plain = |piece| !stack.is_inside(Piece::Gzip, piece);
    if stack.is_inside(Piece::ChunkSpan, Piece::RequestSpan) && plain(Piece::ChunkSpan) {
        let name = "http.server.response.chunk";
        let chunks = spans.iter().filter(|span| span.name == name).count();
        assert_eq!(chunks, 2);
    }
    if stack.has(Piece::Metrics) {
        assert_eq!(telemetry.measured(names::TIME_TO_FIRST_CHUNK), 1);
        let gaps = telemetry.measured(names::CHUNK_GAP);
        assert!(gaps == 1 || gaps == 2 && !plain(Piece::Metrics), "{gaps}");
        let told = telemetry.sums(names::HEARTBEATS).into_values().sum::<i64>() > 0;
        assert_eq!(told, outside(Piece::Metrics));
    }
}

#[tokio::test]
async fn beside_each_layer() {
    for protocol in PROTOCOLS {
        for other in Piece::OURS {
            if other != Piece::Heartbeat {
                two_chunks(Stack::new([other, Piece::Heartbeat]), protocol).await;
                two_chunks(Stack::new([Piece::Heartbeat, other]), protocol).await;
            }
        }
        two_chunks(Stack::new([Piece::Gzip, Piece::Heartbeat]), protocol).await;
    }
}

#[tokio::test]
async fn in_the_whole_stack() {
    for protocol in PROTOCOLS {
        two_chunks(Stack::new(Piece::OURS), protocol).await;
        for seed in 0..12 {
            let mut random = Rng::with_seed(seed);
            let mut pieces = Piece::OURS.to_vec();
            random.shuffle(&mut pieces);
            if seed % 2 == 1 {
                // No heartbeat is written into an encoded stream, so the encoder is placed outside of the heartbeat
                // layer.
                let place = pieces.iter().position(|piece| *piece == Piece::Heartbeat);
                pieces.insert(random.usize(..=place.expect("one of ours")), Piece::Gzip);
                Piece::make_workable(&mut pieces);
            }
            let mut stack = Stack::new(pieces);
            stack.our_gzip = seed % 4 == 3;
            stack.seed = Some(seed);
            two_chunks(stack, protocol).await;
        }
    }
}
