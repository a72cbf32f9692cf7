//! Limits and the breaker on the wire: in the demo server, in a drain, with websockets, for gRPC clients.

mod grpc;

use std::{convert::Infallible, error::Error, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::ws::{WebSocket, WebSocketUpgrade},
    response::Response,
    routing::{any, get},
};
use clap::Parser;
use demo_server::Args;
use e2e::{
    DemoProcess, PATIENCE, Protocol, Request, Signal, TestServer, h1, h2, serve, start_demo,
};
use futures_util::{StreamExt, stream};
use hyper::body::Incoming;
use stream_load::{Ending, Report};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{client_async, tungstenite::client::IntoClientRequest};
use tonic::{Code, Status};
use tower::{Layer, service_fn};
use tower_stream::{
    limit::{Rate, StreamPermit},
    prelude::*,
};

type Outcome = Result<(), Box<dyn Error>>;

/// What `stream-load` concludes of a demo server with these flags: `--total 60 --streams 20`, and the path.
async fn load(args: Args, path: &str) -> Result<Report, Box<dyn Error>> {
    let server = start_demo(args).await?;
    let url = format!("http://{}{path}", server.public_addr());
    let args =
        stream_load::Args::parse_from(["stream-load", "--total", "60", "--streams", "20", &url]);
    Ok(stream_load::run(&args).await?)
}

#[tokio::test]
async fn a_load_sees_what_each_flag_of_the_demo_refuses() -> Outcome {
    let events = "/events?count=20&interval_ms=5";
    let at_most = |max_streams, max_streams_per_client, rate| Args {
        max_streams,
        max_streams_per_client,
        rate,
        ..Args::default()
    };
    for (args, refused, other) in [
        (at_most(3, 0, 0), Ending::Status5xx, Ending::Status4xx),
        (at_most(0, 3, 0), Ending::Status4xx, Ending::Status5xx),
        (at_most(0, 0, 1), Ending::Status4xx, Ending::Status5xx),
    ] {
        let report = load(args, events).await?;
        let (refused, whole) = (report.count(refused), report.count(Ending::Whole));
        assert!(refused > 0 && whole > 0, "{report}");
        assert_eq!((refused + whole, report.count(other)), (60, 0), "{report}");
    }
    // Neither flag of zero refuses any.
    let report = load(at_most(0, 0, 0), events).await?;
    assert_eq!(report.count(Ending::Whole), 60, "{report}");

    // Each response dies in its middle, after its 200: at 20 of them the breaker refuses the others.
    let fails = "/fail?how=error-body&format=sse&after=1&interval_ms=0";
    for (breaker, most) in [(true, 39), (false, 60)] {
        let args = Args {
            breaker,
            ..Args::default()
        };
        let report = load(args, fails).await?;
        let died = report.count(Ending::InBandError);
        assert!((20..=most).contains(&died), "{report}");
        assert_eq!(died + report.count(Ending::Status5xx), 60, "{report}");
        assert_eq!(died == 60, !breaker, "{report}");
    }
    Ok(())
}

async fn ask(server: &demo_server::Server, protocol: Protocol, target: &str) -> e2e::Response {
    let request = Request::get(target);
    let response = protocol.send(server.public_addr(), &request).await;
    response.expect("a head")
}

#[tokio::test]
async fn a_stream_holds_its_permit_until_its_client_leaves() -> Outcome {
    let server = start_demo(Args {
        max_streams: 2,
        ..Args::default()
    })
    .await?;
    let endless = Request::get("/events?count=0&interval_ms=5");
    let mut first = h1::Connection::open(server.public_addr()).await?;
    first.send(&endless).await?;
    assert!(first.reply().await.expect("a head").chunk().await.is_some());
    let mut second = h2::Connection::open(server.public_addr()).await?;
    let mut second = second
        .send(&endless)
        .await
        .expect("taken")
        .reply()
        .await
        .expect("a head");
    assert!(second.chunk().await.is_some());

    for protocol in Protocol::ALL {
        let refused = ask(&server, protocol, "/lines?count=1").await;
        assert_eq!(refused.status(), 503, "{protocol:?}");
        assert!(refused.end.is_whole());
        let kind = refused.header("content-type");
        assert_eq!(kind, Some("application/problem+json"));
        assert_eq!(refused.json()["status"], 503);
        assert_eq!(
            refused.json()["instance"].as_str(),
            refused.header("x-request-id")
        );
        let wait: u64 = refused.header("retry-after").unwrap_or_default().parse()?;
        assert!((2..=4).contains(&wait), "{wait}");
    }
    // OpenAI's clients get a refusal in their form.
    let refused = ask(&server, Protocol::Http11, "/v1/models").await;
    assert_eq!(refused.status(), 503);
    let error = &refused.json()["error"];
    assert!(error["message"].as_str().is_some(), "{}", refused.text());
    assert!(refused.header("retry-after").is_some());

    second.reset(h2::Reason::CANCEL);
    let admitted = async {
        while ask(&server, Protocol::Http11, "/lines?count=1")
            .await
            .status()
            != 200
        {}
    };
    timeout(PATIENCE, admitted).await?;
    Ok(())
}

#[tokio::test]
async fn a_rate_counts_an_address_and_says_what_is_left() -> Outcome {
    let server = start_demo(Args {
        rate: 1000,
        ..Args::default()
    })
    .await?;
    let response = ask(&server, Protocol::Http11, "/lines?count=1").await;
    let policy = response.header("ratelimit-policy");
    assert_eq!(policy, Some("\"default\";q=1000;w=1"));
    assert_eq!(response.header("ratelimit"), Some("\"default\";r=999;t=1"));
    Ok(())
}

#[tokio::test]
async fn a_refusal_during_a_drain_closes_its_connection_and_is_counted() -> Outcome {
    let drain = Drain::builder()
        .deadline(PATIENCE * 2)
        .advertise(PATIENCE)
        .build();
    let limit = StreamLimitLayer::new().streams(0);
    let app = Router::new().route("/", get(|| async { "hello" }));
    let app = app.layer(StreamStack::new().drain(&drain).limit(limit.clone()));
    let server = serve(app).await?;
    let get = Request::get("/");
    for (close, protocol) in [(false, Protocol::Http11), (true, Protocol::Http11)] {
        let refused = protocol.send(server.addr(), &get).await.expect("a head");
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.header("connection") == Some("close"), close);
        drain.start();
    }
    assert_eq!((limit.stats().refused_streams, drain.in_flight()), (2, 0));
    assert_eq!(drain.stats().refused, 0);
    Ok(())
}

async fn open(server: &TestServer) -> Result<impl Sized, u16> {
    let request = "ws://a.test/ws".into_client_request().expect("a request");
    let stream = TcpStream::connect(server.addr()).await.expect("it listens");
    match client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
            Err(response.status().as_u16())
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_websocket_holds_its_permit_until_it_closes() -> Outcome {
    async fn handler(permit: StreamPermit, upgrade: WebSocketUpgrade) -> Response {
        upgrade.on_upgrade(|mut socket: WebSocket| async move {
            while let Some(Ok(_)) = socket.next().await {}
            drop(permit);
        })
    }
    let limit = StreamLimitLayer::new().streams(1);
    let app = Router::new().route("/ws", any(handler));
    let server = serve(app.layer(StreamStack::new().limit(limit.clone()))).await?;
    let first = open(&server).await.map_err(|status| status.to_string())?;
    assert_eq!(open(&server).await.err(), Some(503));
    assert_eq!(limit.stats().in_use, 1);
    drop(first);
    let closed = async {
        while limit.stats().in_use > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, closed).await?;
    assert!(open(&server).await.is_ok());
    Ok(())
}

/// A tonic service that sends one message and does not end.
async fn endless(
    request: http::Request<Incoming>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    let method = service_fn(|_: tonic::Request<Bytes>| async {
        let one = stream::iter([Ok(Bytes::from("message"))]);
        Ok::<_, Status>(tonic::Response::new(one.chain(stream::pending()).boxed()))
    });
    let mut server = tonic::server::Grpc::new(grpc::Raw);
    Ok(server.server_streaming(method, request).await)
}

#[tokio::test]
async fn a_tonic_client_gets_the_status_of_a_refusal_and_when_to_retry() -> Outcome {
    let limit = StreamLimitLayer::new();
    let breaker = BreakerLayer::new();
    breaker.force_open();
    let off = BreakerLayer::off;
    let one_a_minute = limit.clone().rate_per_key(Rate::per_minute(1));
    for (limit, breaker, admitted, code) in [
        (limit.clone().streams(0), off(), 0, Code::Unavailable),
        (
            limit.clone().streams_per_key(0),
            off(),
            0,
            Code::ResourceExhausted,
        ),
        (limit, breaker, 0, Code::Unavailable),
        (one_a_minute, off(), 1, Code::ResourceExhausted),
    ] {
        let service = limit.layer(breaker.layer(service_fn(endless)));
        let server = serve(service).await?;
        for _ in 0..admitted {
            let mut first = grpc::begin(&server, "/t.T/Stream").await?;
            assert_eq!(first.message().await?, Some(Bytes::from("message")));
        }
        let (messages, status) = grpc::call(&server, "/t.T/Stream").await;
        assert_eq!((messages.len(), status.code()), (0, code));
        assert!(status.message().contains("later") || status.message().contains("again"));
        let number = |name: &str| -> Result<u64, Box<dyn Error>> {
            let value = status.metadata().get(name).ok_or(name)?;
            Ok(value.to_str()?.parse()?)
        };
        let seconds = number("retry-after")?;
        assert_eq!(seconds, number("grpc-retry-pushback-ms")?.div_ceil(1_000));

        // On the wire it is Trailers-Only: one HEADERS frame that ends the stream.
        let request = Request::post("/t.T/Stream", "\0\0\0\0\0")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let mut connection = h2::Connection::open(server.addr()).await?;
        let stream = connection.send(&request).await.expect("taken");
        let id = stream.id();
        let response = stream.reply().await.expect("a head").finish().await;
        assert!(response.end.is_whole(), "{response:?}");
        assert_eq!((response.status(), response.body().len()), (200, 0));
        let told = response.header("grpc-status").unwrap_or_default();
        assert_eq!(told.parse(), Ok(code as i32));
        assert_eq!(response.header("content-type"), Some("application/grpc"));
        let frames = connection.frames();
        let of_stream = frames.iter().filter(|frame| frame.stream == id);
        let kinds: Vec<_> = of_stream
            .filter(|frame| !matches!(frame.kind, h2::FrameKind::WindowUpdate(_)))
            .map(|frame| (&frame.kind, frame.ends_stream()))
            .collect();
        assert_eq!(kinds, [(&h2::FrameKind::Headers, true)]);
    }
    Ok(())
}

#[tokio::test]
async fn a_tonic_stream_holds_its_permit_until_its_client_cancels_it() -> Outcome {
    let limit = StreamLimitLayer::new().streams(1);
    let server = serve(limit.layer(service_fn(endless))).await?;
    let mut first = grpc::begin(&server, "/t.T/Stream").await?;
    assert_eq!(first.message().await?, Some(Bytes::from("message")));
    let refused = grpc::begin(&server, "/t.T/Stream").await.err();
    assert_eq!(refused.map(|status| status.code()), Some(Code::Unavailable));
    assert_eq!(limit.stats().in_use, 1);
    drop(first);
    let admitted = async {
        loop {
            if let Ok(second) = grpc::begin(&server, "/t.T/Stream").await {
                return second;
            }
        }
    };
    let second = timeout(PATIENCE, admitted).await?;
    assert_eq!(limit.stats().in_use, 1);
    drop(second);
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_one_log_line_and_one_count() -> Outcome {
    let flags = ["--max-streams", "1", "--log", "json"];
    let mut demo = DemoProcess::start(&flags).await?;
    let mut held = h1::Connection::open(demo.public_addr()).await?;
    held.send(&Request::get("/events?count=0")).await?;
    let held = held.reply().await.expect("a head");
    for _ in 0..2 {
        let ask = Request::get("/lines");
        let refused = Protocol::Http11.send(demo.public_addr(), &ask).await;
        assert_eq!(refused.expect("a head").status(), 503);
    }
    let ask = Request::get("/metrics");
    let metrics = Protocol::Http11.send(demo.admin_addr(), &ask).await;
    let metrics = metrics.expect("a head").text();
    let count = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name));
    assert_eq!(
        count("http_server_limit_refused_total{limit_reason=\"streams\"} "),
        Some("2")
    );
    assert_eq!(count("http_server_limit_in_use "), Some("1"), "{metrics}");
    drop(held);
    // The log is complete once the process is gone.
    demo.signal(Signal::KILL)?;
    demo.exit(PATIENCE).await?;
    let log = demo.log().json();
    let refusals: Vec<_> = log
        .iter()
        .filter(|line| line.to_string().contains("request refused"))
        .collect();
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    for line in refusals {
        assert!(line.to_string().contains("\"streams\""), "{line}");
    }
    Ok(())
}
