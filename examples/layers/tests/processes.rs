//! Runs the examples as processes and checks their responses over sockets.

use std::{error::Error, net::SocketAddr, process::Stdio, time::Duration};

use axum::{Router, routing::get};
use e2e::{End, PATIENCE, Protocol, Request, Response, Signal, h1, serve};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use tower_http::cors::{Any, CorsLayer};
use tower_stream::StreamStack;

type Outcome = Result<(), Box<dyn Error>>;

struct Example {
    process: Child,
    /// Kept open, because an example panics if it cannot print.
    _stdout: BufReader<ChildStdout>,
    addresses: Vec<SocketAddr>,
}

impl Example {
    /// Starts an example on `listeners` free ports, and reads the line that names them.
    async fn start(program: &str, listeners: usize) -> Result<Self, Box<dyn Error>> {
        let mut process = Command::new(program)
            .args(vec!["127.0.0.1:0"; listeners])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdout = BufReader::new(process.stdout.take().ok_or("stdout is piped")?);
        let mut line = String::new();
        timeout(PATIENCE, stdout.read_line(&mut line)).await??;
        let addresses = line.split_whitespace();
        let addresses: Vec<_> = addresses
            .filter_map(|word| word.strip_prefix("http://")?.parse().ok())
            .collect();
        assert_eq!(addresses.len(), listeners, "{line}");
        Ok(Self {
            process,
            _stdout: stdout,
            addresses,
        })
    }

    fn signal(&self, signal: Signal) -> Outcome {
        let pid = self.process.id().ok_or("it has ended")?;
        e2e::signal(pid, signal)?;
        Ok(())
    }
}

fn as_demo(request: Request) -> Request {
    request
        .header("authorization", "Bearer demo")
        .header("origin", "http://a.test")
}

fn is_open_to_scripts(response: &Response) -> bool {
    let headers = &response.head.headers;
    headers.get("access-control-allow-origin") == Some("*")
        && headers.get("access-control-expose-headers") == Some("x-request-id")
}

#[tokio::test]
async fn every_answer_of_the_service_can_be_read_by_a_browser() -> Outcome {
    let service = Example::start(env!("CARGO_BIN_EXE_service"), 1).await?;
    let anonymous = Request::get("/events").header("origin", "http://a.test");
    for (request, status) in [
        (as_demo(Request::get("/")), 200),
        (as_demo(Request::get("/panic")), 500),
        (anonymous, 401),
        (as_demo(Request::post("/notes", vec![b'a'; 1025])), 413),
        (as_demo(Request::post("/notes", vec![b'a'; 1024])), 200),
        (as_demo(Request::get("/none")), 404),
    ] {
        for protocol in [Protocol::Http11, Protocol::Http2] {
            let response = protocol.send(service.addresses[0], &request).await?;
            assert_eq!(response.status(), status, "{request:?}: {response:?}");
            assert!(response.end.is_whole(), "{response:?}");
            assert!(is_open_to_scripts(&response), "{response:?}");
            let id = response.head.headers.get("x-request-id");
            assert!(id.is_some(), "{response:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_preflight_needs_neither_a_token_nor_a_part_of_the_rate() -> Outcome {
    let service = Example::start(env!("CARGO_BIN_EXE_service"), 1).await?;
    let preflight = Request::new("OPTIONS", "/notes")
        .header("origin", "http://a.test")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization");
    for _ in 0..30 {
        let response = Protocol::Http11
            .send(service.addresses[0], &preflight)
            .await?;
        let headers = &response.head.headers;
        assert_eq!(response.status(), 200, "{response:?}");
        let allowed = headers.get("access-control-allow-headers");
        assert!(
            allowed.is_some_and(|names| names.contains("authorization")),
            "{response:?}"
        );
    }
    let response = Protocol::Http11
        .send(service.addresses[0], &as_demo(Request::get("/")))
        .await?;
    assert_eq!(response.status(), 200, "{response:?}");
    Ok(())
}

#[tokio::test]
async fn more_requests_than_the_rate_are_refused_with_an_id() -> Outcome {
    let service = Example::start(env!("CARGO_BIN_EXE_service"), 1).await?;
    // The limit may be refilled once during the test, but not twice.
    let mut refused = None;
    for _ in 0..45 {
        let response = Protocol::Http11
            .send(service.addresses[0], &as_demo(Request::get("/")))
            .await?;
        if response.status() == 429 {
            refused = Some(response);
            break;
        }
        assert_eq!(response.status(), 200, "{response:?}");
    }
    let refused = refused.ok_or("45 requests within a minute were answered")?;
    assert_eq!(refused.head.headers.get("retry-after"), Some("60"));
    assert!(is_open_to_scripts(&refused), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn documents_are_compressed_and_events_are_not_held_back() -> Outcome {
    let service = Example::start(env!("CARGO_BIN_EXE_service"), 1).await?;
    let encoded = |path| as_demo(Request::get(path)).header("accept-encoding", "gzip");
    let document = Protocol::Http11
        .send(service.addresses[0], &encoded("/"))
        .await?;
    let encoding = document.head.headers.get("content-encoding");
    assert_eq!(encoding, Some("gzip"), "{document:?}");
    let events = Protocol::Http11
        .send(service.addresses[0], &encoded("/events"))
        .await?;
    assert_eq!(events.head.headers.get("content-encoding"), None);
    assert_eq!(events.chunks.len(), 5, "{events:?}");
    assert!(events.end.is_whole());
    Ok(())
}

/// The wrong order, with CORS inside: the documentation says what it loses.
#[tokio::test]
async fn with_cors_inside_a_panic_has_no_cors_headers() -> Outcome {
    async fn panics() -> &'static str {
        panic!("on purpose")
    }
    let cors = || CorsLayer::new().allow_origin(Any);
    let routes = || Router::new().route("/", get(panics));
    let inside = serve(routes().layer(cors()).layer(StreamStack::new())).await?;
    let outside = serve(routes().layer(StreamStack::new()).layer(cors())).await?;
    let request = Request::get("/").header("origin", "http://a.test");
    for (server, origin) in [(&inside, None), (&outside, Some("*"))] {
        let response = Protocol::Http11.send(server.addr(), &request).await?;
        assert_eq!(response.status(), 500);
        let headers = &response.head.headers;
        assert_eq!(headers.get("access-control-allow-origin"), origin);
    }
    Ok(())
}

#[tokio::test]
async fn probes_on_a_listener_of_their_own_are_answered_until_the_drain_is_over() -> Outcome {
    let mut example = Example::start(env!("CARGO_BIN_EXE_drain"), 2).await?;
    let (public, admin) = (example.addresses[0], example.addresses[1]);
    let probe = async |path| {
        let answer = Protocol::Http11.send(admin, &Request::get(path)).await;
        answer.map(|response| response.status())
    };
    assert_eq!(
        (probe("/readyz").await?, probe("/livez").await?),
        (200, 200)
    );

    let mut connection = h1::Connection::open(public).await?;
    connection.send(&Request::get("/")).await?;
    let mut stream = connection.reply().await?;
    assert!(stream.chunk().await.is_some());
    example.signal(Signal::TERM)?;
    // Until the public listener is closed. The stream is still in flight, and a probe on that listener would be
    // refused.
    loop {
        assert!(stream.chunk().await.is_some());
        let answer = Protocol::Http11.send(public, &Request::head("/")).await;
        if answer.is_err_and(|end| end == End::TcpReset) {
            break;
        }
    }
    assert_eq!(
        (probe("/readyz").await?, probe("/livez").await?),
        (503, 200)
    );

    // The deadline is 10 s away. A second signal ends the drain now.
    example.signal(Signal::TERM)?;
    let response = stream.finish().await;
    assert!(response.end.is_whole(), "{response:?}");
    assert!(response.text().contains("event: drain\n"), "{response:?}");
    let status = timeout(Duration::from_secs(60), example.process.wait()).await??;
    assert!(status.success());
    Ok(())
}
