//! Request and chunk spans of streams that real clients read, over every protocol and through every way of ending.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, response::IntoResponse, routing::get};
use e2e::{Protocol, Request, TestServer, h2, serve};
use http::StatusCode;
use opentelemetry::{
    Value, global,
    trace::{SpanKind, Status, TracerProvider},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{InMemorySpanExporter, SdkTracerProvider, SpanData},
};
use parking_lot::Mutex;
use tower::ServiceBuilder;
use tower_http::trace::TraceLayer;
use tower_stream_core::mock::{self, MockBody};
use tower_stream_trace::{ChunkSpanLayer, RequestSpanLayer};
use tracing::{level_filters::LevelFilter, subscriber::DefaultGuard};
use tracing_subscriber::{Layer, layer::SubscriberExt};

/// Spans of this thread, on which server and client of a test both run.
struct Traces {
    provider: SdkTracerProvider,
    exporter: InMemorySpanExporter,
    _default: DefaultGuard,
}

impl Traces {
    fn new() -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("requests"));
        // The filter removes the spans of hyper and h2, whose level is below INFO.
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(LevelFilter::INFO));
        Self {
            provider,
            exporter,
            _default: tracing::subscriber::set_default(subscriber),
        }
    }

    fn chunk_layer(&self) -> ChunkSpanLayer {
        ChunkSpanLayer::new(self.provider.tracer("chunks"))
    }

    /// All spans, once this many of kind server have ended: the server may still be at it when the client is done.
    async fn spans(&self, requests: usize) -> Vec<SpanData> {
        let servers = |spans: &[SpanData]| spans.iter().filter(|span| is_request(span)).count();
        let ended = async {
            loop {
                let spans = self.exporter.get_finished_spans().unwrap();
                if servers(&spans) >= requests {
                    return spans;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let spans = tokio::time::timeout(e2e::PATIENCE, ended)
            .await
            .expect("every request span ends");
        assert_eq!(servers(&spans), requests, "one span a request");
        spans
    }
}

fn is_request(span: &SpanData) -> bool {
    span.span_kind == SpanKind::Server
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|kv| kv.key.as_str() == key)?;
    Some(found.value.as_str().into_owned())
}

fn is_integer(span: &SpanData, key: &str) -> bool {
    let found = span.attributes.iter().find(|kv| kv.key.as_str() == key);
    found.is_some_and(|kv| matches!(kv.value, Value::I64(_)))
}

/// The request span whose path is this, and its chunks in order.
fn stream<'a>(spans: &'a [SpanData], path: &str) -> (&'a SpanData, Vec<&'a SpanData>) {
    let mut requests = spans.iter().filter(|span| is_request(span));
    let request = requests
        .find(|span| attribute(span, "url.path").as_deref() == Some(path))
        .expect("a request span of this path");
    let mut chunks: Vec<_> = spans
        .iter()
        .filter(|span| span.parent_span_id == request.span_context.span_id())
        .collect();
    chunks.sort_by_key(|span| attribute(span, "chunk.index"));
    (request, chunks)
}

/// Answers the first request of each path below `/stream` with the body that `bodies` has for it.
fn router(bodies: impl IntoIterator<Item = (&'static str, MockBody)>) -> Router {
    let bodies = bodies
        .into_iter()
        .map(|(name, body)| (name.to_owned(), body));
    let bodies: std::collections::HashMap<_, _> = bodies.collect();
    let bodies = Arc::new(Mutex::new(bodies));
    let handler = async move |axum::extract::Path(name): axum::extract::Path<String>| match bodies
        .lock()
        .remove(&name)
    {
        Some(body) => Body::new(body).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    };
    Router::new().route("/stream/{name}", get(handler))
}

async fn ours(
    traces: &Traces,
    bodies: impl IntoIterator<Item = (&'static str, MockBody)>,
) -> TestServer {
    let layers = ServiceBuilder::new()
        .layer(RequestSpanLayer::new())
        .layer(traces.chunk_layer());
    serve(router(bodies).layer(layers)).await.unwrap()
}

#[tokio::test]
async fn every_end_has_its_spans() {
    use mock::{data, error, hang, panic, sleep, trailer};
    let flush = || sleep(Duration::from_millis(5));
    type Case = (
        &'static str,
        MockBody,
        usize,
        &'static str,
        Option<&'static str>,
    );
    let cases = || -> Vec<Case> {
        vec![
            ("empty", MockBody::new([]), 0, "complete", None),
            (
                "says-it-is-empty",
                MockBody::new([]).tells_end(),
                0,
                "complete",
                None,
            ),
            ("one", MockBody::new([data("a")]), 1, "complete", None),
            (
                "no-none",
                MockBody::new([data("a"), data("b")]).tells_end(),
                2,
                "complete",
                None,
            ),
            (
                "length",
                MockBody::new([data("a"), data("b")]).with_true_size(),
                2,
                "complete",
                None,
            ),
            (
                "trailers",
                MockBody::new([data("a"), trailer("x", "1")]),
                1,
                "complete",
                None,
            ),
            (
                "trailers-only",
                MockBody::new([trailer("x", "1")]),
                0,
                "complete",
                None,
            ),
            (
                "error",
                MockBody::new([data("a"), flush(), error("x")]),
                1,
                "error",
                Some("_OTHER"),
            ),
            (
                "error-first",
                MockBody::new([error("x")]),
                0,
                "error",
                Some("_OTHER"),
            ),
            (
                "panic",
                MockBody::new([data("a"), flush(), panic("x")]),
                1,
                "panic",
                Some("panic"),
            ),
            (
                "left",
                MockBody::new([data("a"), hang()]),
                1,
                "aborted",
                Some("dropped"),
            ),
        ]
    };
    for protocol in Protocol::ALL {
        for (name, body, count, outcome, error) in cases() {
            let traces = Traces::new();
            let server = ours(&traces, [(name, body)]).await;
            let path = format!("/stream/{name}");
            let request = Request::get(&path);
            let exchange = protocol.send(server.addr(), &request);
            // The client of the body that hangs disconnects after this time. No other body takes as long.
            let patience = match name {
                "left" => Duration::from_secs(1),
                _ => e2e::PATIENCE,
            };
            let _ = tokio::time::timeout(patience, exchange).await;

            let what = format!("{name} over {protocol:?}");
            let spans = traces.spans(1).await;
            let (request, chunks) = stream(&spans, &path);
            assert_eq!(
                spans.len(),
                1 + chunks.len(),
                "{what}: every chunk is a child"
            );
            assert_eq!(chunks.len(), count, "{what}");
            assert_eq!(request.name, "GET /stream/{name}", "{what}");
            for (key, value) in [
                ("stream.outcome", Some(outcome)),
                ("error.type", error),
                ("stream.chunks", Some(&*count.to_string())),
                ("http.response.status_code", Some("200")),
                ("client.address", Some("127.0.0.1")),
            ] {
                assert_eq!(attribute(request, key).as_deref(), value, "{key} of {what}");
            }
            let failed = matches!(request.status, Status::Error { .. });
            assert_eq!(failed, matches!(outcome, "error" | "panic"), "{what}");
            for (index, chunk) in chunks.iter().enumerate() {
                assert_eq!(
                    attribute(chunk, "chunk.index"),
                    Some(index.to_string()),
                    "{what}"
                );
                assert_eq!(
                    attribute(chunk, "chunk.length").as_deref(),
                    Some("1"),
                    "{what}"
                );
                assert!(is_integer(chunk, "chunk.index") && is_integer(chunk, "chunk.length"));
                assert!(chunk.start_time >= request.start_time, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn head_and_an_upgrade_are_complete() {
    let traces = Traces::new();
    let upgrade = || async {
        let headers = [("connection", "upgrade"), ("upgrade", "test")];
        (StatusCode::SWITCHING_PROTOCOLS, headers)
    };
    let layers = ServiceBuilder::new()
        .layer(RequestSpanLayer::new())
        .layer(traces.chunk_layer());
    let app = Router::new()
        .route("/upgrade", get(upgrade))
        .route("/hello", get(|| async { "hello" }))
        .layer(layers);
    let server = serve(app).await.unwrap();
    let upgrade = Request::get("/upgrade")
        .header("connection", "upgrade")
        .header("upgrade", "test");
    Protocol::Http11
        .send(server.addr(), &upgrade)
        .await
        .unwrap();
    for protocol in Protocol::ALL {
        protocol
            .send(server.addr(), &Request::head("/hello"))
            .await
            .unwrap();
    }
    let spans = traces.spans(4).await;
    assert_eq!(spans.len(), 4, "no chunk was sent");
    for span in &spans {
        assert_eq!(
            attribute(span, "stream.outcome").as_deref(),
            Some("complete")
        );
    }
}

#[tokio::test]
async fn streams_of_one_connection_keep_their_chunks_apart() {
    let traces = Traces::new();
    // Each stream has chunks of another length, and the streams return them in turns.
    let body = |length: usize| {
        let pause = || mock::sleep(Duration::from_millis(3));
        MockBody::new((0..5).flat_map(move |_| [mock::data("x".repeat(length)), pause()]))
    };
    let names = ["one", "two", "three"];
    let bodies = names.into_iter().zip((1..).map(body));
    let server = ours(&traces, bodies).await;
    let mut connection = h2::Connection::open(server.addr()).await.unwrap();
    let mut streams = Vec::new();
    for name in names {
        let request = Request::get(&format!("/stream/{name}"));
        streams.push(connection.send(&request).await.unwrap());
    }
    for stream in streams {
        assert!(stream.reply().await.unwrap().finish().await.end.is_whole());
    }
    let spans = traces.spans(3).await;
    let mut ids = std::collections::HashSet::new();
    for (name, length) in names.into_iter().zip(1..) {
        let (request, chunks) = stream(&spans, &format!("/stream/{name}"));
        assert_eq!(chunks.len(), 5);
        ids.insert(request.span_context.trace_id());
        for chunk in chunks {
            assert_eq!(attribute(chunk, "chunk.length"), Some(length.to_string()));
            assert_eq!(
                chunk.span_context.trace_id(),
                request.span_context.trace_id()
            );
        }
    }
    assert_eq!(ids.len(), 3, "each is a trace of its own");
}

#[tokio::test]
async fn nested_routers_with_the_layer_on_each_have_one_span() {
    let traces = Traces::new();
    let inner = Router::new()
        .route("/{id}", get(|| async { "hi" }))
        .layer(RequestSpanLayer::new());
    let app = Router::new()
        .nest("/orders", inner)
        .layer(RequestSpanLayer::new());
    let server = serve(app).await.unwrap();
    let request = Request::get("/orders/17?secret=1");
    Protocol::Http2.send(server.addr(), &request).await.unwrap();
    let spans = traces.spans(1).await;
    assert_eq!(spans[0].name, "GET /orders/{id}");
    assert_eq!(attribute(&spans[0], "url.query"), None);
}

#[tokio::test]
async fn the_clients_trace_goes_on() {
    global::set_text_map_propagator(TraceContextPropagator::new());
    for protocol in Protocol::ALL {
        let traces = Traces::new();
        let server = ours(&traces, [("x", MockBody::new([mock::data("a")]))]).await;
        let request = Request::get("/stream/x").header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        );
        protocol.send(server.addr(), &request).await.unwrap();
        let spans = traces.spans(1).await;
        assert_eq!(spans.len(), 2);
        for span in &spans {
            let trace = span.span_context.trace_id().to_string();
            assert_eq!(trace, "4bf92f3577b34da6a3ce929d0e0e4736");
        }
        let (request, _) = stream(&spans, "/stream/x");
        assert_eq!(request.parent_span_id.to_string(), "00f067aa0ba902b7");
    }
}

#[tokio::test]
async fn chunks_find_the_span_of_tower_https_trace_layer() {
    for protocol in Protocol::ALL {
        let traces = Traces::new();
        let theirs = TraceLayer::new_for_http().make_span_with(|request: &http::Request<Body>| {
            tracing::info_span!(
                "theirs",
                otel.kind = "server",
                url.path = request.uri().path()
            )
        });
        let layers = ServiceBuilder::new()
            .layer(theirs)
            .layer(traces.chunk_layer());
        let body = MockBody::new([mock::data("a"), mock::data("b")]);
        let server = serve(router([("x", body)]).layer(layers)).await.unwrap();
        protocol
            .send(server.addr(), &Request::get("/stream/x"))
            .await
            .unwrap();
        let spans = traces.spans(1).await;
        let (request, chunks) = stream(&spans, "/stream/x");
        assert_eq!((request.name.as_ref(), chunks.len()), ("theirs", 2));
    }
}
