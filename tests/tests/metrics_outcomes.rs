//! Every stream is counted once, as it ended, whatever server and client do; and afterwards nothing is active.

use std::{error::Error, future::pending, io, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request as AxumRequest,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use e2e::{Protocol, Request, TestServer, h1, h2, serve};
use futures_util::stream;
use opentelemetry::{KeyValue, metrics::MeterProvider};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};
use tower_stream_core::mock::{self, MockBody, Step};
use tower_stream_metrics::{StreamMetricsLayer, names};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(20);

/// A server with the layer, and what the layer recorded.
struct Measured {
    server: TestServer,
    exporter: InMemoryMetricExporter,
    provider: SdkMeterProvider,
}

impl Measured {
    async fn start() -> io::Result<Self> {
        let exporter = InMemoryMetricExporter::default();
        // Longer than any test: an export by the clock, beside one that is asked for, would be counted twice.
        let reader = PeriodicReader::builder(exporter.clone())
            .with_interval(Duration::from_secs(86_400))
            .build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        let layer = StreamMetricsLayer::new(&provider.meter("test"));
        let server = serve(routes().layer(layer)).await?;
        Ok(Self {
            server,
            exporter,
            provider,
        })
    }

    /// The values of a counter: see [`label`].
    fn sums(&self, name: &str) -> Vec<(String, i64)> {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let exported = self.exporter.get_finished_metrics().unwrap();
        let mut sums = Vec::new();
        for metric in exported
            .iter()
            .flat_map(|resource| resource.scope_metrics())
            .flat_map(|scope| scope.metrics())
            .filter(|metric| metric.name() == name)
        {
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                    let values = sum.data_points().map(|point| {
                        let value = i64::try_from(point.value()).unwrap();
                        (label(point.attributes()), value)
                    });
                    sums.extend(values);
                }
                AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                    sums.extend(
                        sum.data_points()
                            .map(|point| (label(point.attributes()), point.value())),
                    );
                }
                other => panic!("{name} is no counter: {other:?}"),
            }
        }
        sums
    }

    /// Waits until nothing is active, then gives what ended how often.
    async fn ends(&self) -> Vec<(String, i64)> {
        let idle = async {
            loop {
                let active = self.sums(names::STREAM_ACTIVE);
                if !active.is_empty() && active.iter().all(|(_, active)| *active == 0) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(SOON, idle).await.is_err() {
            panic!("still active: {:?}", self.sums(names::STREAM_ACTIVE));
        }
        self.sums(names::STREAM_COUNT)
    }

    /// Waits until the handler is at work.
    async fn active(&self) {
        while !self
            .sums(names::STREAM_ACTIVE)
            .iter()
            .any(|(_, active)| *active == 1)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Route, outcome and error type, as far as there are any.
fn label<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> String {
    let attributes: Vec<_> = attributes.collect();
    let value = |name: &&str| attributes.iter().find(|pair| pair.key.as_str() == *name);
    let values: Vec<_> = [names::ROUTE, names::OUTCOME, names::ERROR_TYPE]
        .iter()
        .filter_map(value)
        .map(|pair| pair.value.to_string())
        .collect();
    values.join(" ")
}

fn body(steps: impl IntoIterator<Item = Step>) -> Body {
    Body::new(MockBody::new(steps))
}

/// A pause in which what is ready is flushed, so that a client sees the head before the end.
fn flushed() -> Step {
    mock::sleep(Duration::from_millis(20))
}

fn routes() -> Router {
    let chunk = || mock::data("chunk\n");
    Router::new()
        .route("/whole", any(async || "whole"))
        .route("/empty", get(async || StatusCode::NO_CONTENT))
        .route(
            "/stream",
            get(async move || body([chunk(), flushed(), chunk()])),
        )
        .route(
            "/trailers",
            get(async move || {
                let trailers = [("trailer", "x-sum")];
                (trailers, body([chunk(), mock::trailer("x-sum", "1")]))
            }),
        )
        .route("/endless", get(async move || body([chunk(), mock::hang()])))
        .route(
            "/flood",
            get(async || {
                Body::from_stream(stream::repeat_with(|| {
                    Ok::<_, io::Error>("x".repeat(65536))
                }))
            }),
        )
        .route(
            "/error",
            get(async move || body([chunk(), flushed(), mock::error("disk gone")])),
        )
        .route(
            "/short",
            get(async move || ([("content-length", "99")], body([chunk()]))),
        )
        .route(
            "/panic-body",
            get(async move || body([chunk(), flushed(), mock::panic("scripted")])),
        )
        .route(
            "/panic-handler",
            get(async || -> StatusCode { panic!("scripted") }),
        )
        .route("/never", get(pending::<StatusCode>))
        .route("/upgrade", get(upgrade))
}

/// Switches protocols, and keeps the connection for as long as the client does.
async fn upgrade(request: AxumRequest) -> Response {
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let mut io = hyper_util::rt::TokioIo::new(upgraded);
            let _ = tokio::io::AsyncReadExt::read(&mut io, &mut [0; 1]).await;
        }
    });
    let mut headers = HeaderMap::new();
    headers.insert("connection", "upgrade".parse().expect("a header value"));
    headers.insert("upgrade", "echo".parse().expect("a header value"));
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

#[tokio::test]
async fn what_the_server_does() -> Outcome {
    for protocol in Protocol::ALL {
        for (request, end) in [
            (Request::get("/whole"), "/whole complete"),
            (Request::head("/whole"), "/whole complete"),
            (Request::post("/whole", "ignored"), "/whole complete"),
            (Request::get("/empty"), "/empty complete"),
            (Request::get("/stream"), "/stream complete"),
            (Request::head("/stream"), "/stream complete"),
            (
                Request::get("/trailers").header("te", "trailers"),
                "/trailers complete",
            ),
            (Request::get("/nothing/here"), "_unmatched complete"),
            (Request::get("/error"), "/error error _OTHER"),
            (Request::get("/short"), "/short error short_body"),
            (Request::get("/panic-body"), "/panic-body panic panic"),
            (Request::get("/panic-handler"), "/panic-handler panic panic"),
        ] {
            let measured = Measured::start().await?;
            // Other tests check what the client receives. Here, the exchange only has to be over.
            let _ = protocol.send(measured.server.addr(), &request).await;
            assert_eq!(measured.ends().await, [(end.to_owned(), 1)], "{protocol:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_http1() -> Outcome {
    for (path, head) in [("/endless", true), ("/flood", true), ("/never", false)] {
        let measured = Measured::start().await?;
        let mut client = h1::Connection::open(measured.server.addr()).await?;
        client.send(&Request::get(path)).await?;
        if head {
            client.reply().await?.chunk().await;
        } else {
            measured.active().await;
        }
        client.reset()?;
        assert_eq!(
            measured.ends().await,
            [(format!("{path} aborted dropped"), 1)]
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_http2() -> Outcome {
    for (path, head) in [("/endless", true), ("/flood", true), ("/never", false)] {
        for whole_connection in [false, true] {
            let measured = Measured::start().await?;
            let mut client = h2::Connection::open(measured.server.addr()).await?;
            let stream = client.send(&Request::get(path)).await?;
            if head {
                let mut reply = stream.reply().await?;
                reply.chunk().await;
                if !whole_connection {
                    reply.reset(::h2::Reason::CANCEL);
                }
            } else {
                measured.active().await;
                if !whole_connection {
                    stream.reset(::h2::Reason::CANCEL);
                }
            }
            if whole_connection {
                drop(client);
            }
            assert_eq!(
                measured.ends().await,
                [(format!("{path} aborted dropped"), 1)]
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_never_polled() -> Outcome {
    // With a window of 0, the server sends the head and never polls the body.
    let measured = Measured::start().await?;
    let mut client = h2::Connection::open_with_window(measured.server.addr(), 0).await?;
    let reply = client.send(&Request::get("/stream")).await?.reply().await?;
    assert_eq!(reply.head().status, 200);
    reply.reset(::h2::Reason::CANCEL);
    assert_eq!(
        measured.ends().await,
        [("/stream aborted dropped".to_owned(), 1)]
    );
    Ok(())
}

#[tokio::test]
async fn an_upgrade_is_over_at_its_head() -> Outcome {
    let measured = Measured::start().await?;
    let mut client = h1::Connection::open(measured.server.addr()).await?;
    client
        .send_raw(
            b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
        )
        .await?;
    while !client.received().starts_with(b"HTTP/1.1 101") {
        client.read_some(1024).await?;
    }
    assert_eq!(measured.ends().await, [("/upgrade complete".to_owned(), 1)]);
    Ok(())
}

#[tokio::test]
async fn many_streams_on_one_connection() -> Outcome {
    let measured = Measured::start().await?;
    let mut client = h2::Connection::open(measured.server.addr()).await?;
    let mut replies = Vec::new();
    for n in 0..40 {
        let path = ["/stream", "/error", "/endless", "/panic-body"][n % 4];
        replies.push((path, client.send(&Request::get(path)).await?.reply().await?));
    }
    for (path, mut reply) in replies {
        if path == "/endless" {
            reply.chunk().await;
            reply.reset(::h2::Reason::CANCEL);
        } else {
            reply.finish().await;
        }
    }
    let mut ends = measured.ends().await;
    ends.sort_unstable();
    let expected = [
        "/endless aborted dropped",
        "/error error _OTHER",
        "/panic-body panic panic",
        "/stream complete",
    ];
    assert_eq!(ends, expected.map(|end| (end.to_owned(), 10)));
    Ok(())
}
