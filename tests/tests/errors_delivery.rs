//! The last record arrives, every time; and what must not be touched is not.

use std::{convert::Infallible, error::Error, net::SocketAddr, time::Duration};

use e2e::{End, Protocol, Request, h1, h2, serve};
use futures_util::{StreamExt, future::try_join_all};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{ServiceBuilder, service_fn};
use tower_stream_core::mock::{self, MockBody};
use tower_stream_drain::{Drain, DrainToken, Refusal};
use tower_stream_errors::{AfterTail, ErrorWriterLayer};

type Outcome = Result<(), Box<dyn Error>>;

const CONNECTIONS: usize = 20;

/// An event, then an error in the very same poll round: the hardest case to flush.
async fn fail(_: http::Request<Incoming>) -> Result<http::Response<MockBody>, Infallible> {
    let steps = [mock::data("data: 1\n\n"), mock::error("the secret")];
    let response = http::Response::builder().header("content-type", "text/event-stream");
    Ok(response.body(MockBody::new(steps)).expect("a valid head"))
}

/// How many of `each` requests on each connection ended as `good` says.
async fn count(
    addr: SocketAddr,
    protocol: Protocol,
    each: usize,
    good: fn(&str, &End) -> bool,
) -> Result<usize, End> {
    let connections = (0..CONNECTIONS).map(async |_| {
        let mut arrived = 0;
        match protocol {
            Protocol::Http2 => {
                let mut connection = h2::Connection::open(addr).await?;
                for _ in 0..each {
                    let reply = connection.send(&Request::get("/")).await?.reply().await?;
                    let response = reply.finish().await;
                    arrived += usize::from(good(&response.text(), &response.end));
                }
            }
            _ => {
                let mut connection = h1::Connection::open(addr).await?;
                for _ in 0..each {
                    connection.send(&Request::get("/")).await?;
                    let response = connection.reply().await?.finish().await;
                    arrived += usize::from(good(&response.text(), &response.end));
                    if !response.end.is_whole() {
                        connection = h1::Connection::open(addr).await?;
                    }
                }
            }
        }
        Ok::<usize, End>(arrived)
    });
    Ok(try_join_all(connections).await?.into_iter().sum())
}

fn told(text: &str) -> bool {
    text.starts_with("data: 1\n\nevent: error\ndata: {") && text.ends_with("}\n\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_record_is_delivered_10_000_times_of_10_000() -> Outcome {
    let layers = ServiceBuilder::new().layer(ErrorWriterLayer::new());
    let server = serve(layers.service(service_fn(fail))).await?;
    for protocol in [Protocol::Http11, Protocol::Http2] {
        let good = |text: &str, end: &End| told(text) && end.is_whole();
        let arrived = count(server.addr(), protocol, 10_000 / CONNECTIONS, good).await?;
        assert_eq!(arrived, 10_000, "{protocol:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_abort_behind_it_the_record_arrives_and_the_response_is_cut() -> Outcome {
    // The default is 25 ms. A machine that also compiles may need more.
    let settle = Duration::from_millis(500);
    let layer = ErrorWriterLayer::new().after_tail(AfterTail::Abort { settle });
    let server = serve(ServiceBuilder::new().layer(layer).service(service_fn(fail))).await?;
    for protocol in [Protocol::Http11, Protocol::Http2] {
        let good = |text: &str, end: &End| told(text) && end.is_cut();
        let arrived = count(server.addr(), protocol, 2, good).await?;
        assert_eq!(arrived, 2 * CONNECTIONS, "{protocol:?}");
    }
    Ok(())
}

#[tokio::test]
async fn responses_without_a_body_are_untouched() -> Outcome {
    let handler = service_fn(|request: http::Request<Incoming>| async move {
        let status: u16 = request.uri().path()[1..].parse().expect("a status");
        let response = http::Response::builder()
            .status(status)
            .header("content-type", "text/event-stream")
            .header("x-mine", "1");
        let body = MockBody::new([mock::panic("never polled")]);
        Ok::<_, Infallible>(response.body(body).expect("a valid head"))
    });
    let layers = ServiceBuilder::new().layer(ErrorWriterLayer::new());
    let server = serve(layers.service(handler)).await?;
    let mut connection = h1::Connection::open(server.addr()).await?;
    for request in [
        Request::head("/200"),
        Request::get("/204"),
        Request::get("/304"),
        // The connection can still be used for another request.
        Request::head("/200"),
    ] {
        connection.send(&request).await?;
        let response = connection.reply().await?.finish().await;
        assert_eq!(response.end, End::NoBody, "{request:?}");
        assert_eq!(response.header("x-mine"), Some("1"));
        let mut whole = h2::Connection::open(server.addr()).await?;
        let response = whole.send(&request).await?.reply().await?.finish().await;
        assert!(
            response.end.is_whole() && response.body().is_empty(),
            "{request:?}"
        );
        assert_eq!(response.header("x-mine"), Some("1"));
    }
    Ok(())
}

#[tokio::test]
async fn a_head_request_that_fails_gets_the_head_of_the_problem() -> Outcome {
    let handler = service_fn(|request: http::Request<Incoming>| async move {
        assert_ne!(request.uri().path(), "/fail", "the secret");
        Ok::<_, Infallible>(http::Response::new(MockBody::new([])))
    });
    let layers = ServiceBuilder::new().layer(ErrorWriterLayer::new());
    let server = serve(layers.service(handler)).await?;
    for protocol in Protocol::ALL {
        let get = protocol.send(server.addr(), &Request::get("/fail")).await?;
        let head = protocol
            .send(server.addr(), &Request::head("/fail"))
            .await?;
        assert_eq!((get.status(), head.status()), (500, 500));
        assert_eq!(
            head.header("content-type"),
            Some("application/problem+json")
        );
        let length = get.body().len().to_string();
        assert_eq!(
            head.header("content-length"),
            Some(length.as_str()),
            "{protocol:?}"
        );
        assert!(head.body().is_empty() && head.end.is_whole(), "{head:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_upgrade_goes_through() -> Outcome {
    let handler = service_fn(|request: http::Request<Incoming>| async move {
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(request).await.expect("an upgrade");
            let mut io = hyper_util::rt::TokioIo::new(upgraded);
            let mut said = [0; 4];
            io.read_exact(&mut said).await.expect("four bytes");
            said.reverse();
            io.write_all(&said).await.expect("four bytes back");
        });
        let response = http::Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "echo");
        let body = MockBody::new([mock::panic("never polled")]);
        Ok::<_, Infallible>(response.body(body).expect("a valid head"))
    });
    let layers = ServiceBuilder::new().layer(ErrorWriterLayer::new());
    let server = serve(layers.service(handler)).await?;
    let mut connection = h1::Connection::open(server.addr()).await?;
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    connection.send_raw(request).await?;
    let response = connection.reply().await?.finish().await;
    assert_eq!(
        (response.status(), response.header("upgrade")),
        (101, Some("echo"))
    );
    connection.send_raw(b"abcd").await?;
    let (_, echoed) = connection.closed().await;
    assert_eq!(echoed, "dcba");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_the_drain_inside_refuses_is_reset_as_refused() -> Outcome {
    let drain = Drain::builder()
        .advertise(Duration::ZERO)
        .deadline(Duration::from_secs(60))
        .refuse_with(Refusal::RefusedStream)
        .build();
    let layers = ServiceBuilder::new()
        .layer(ErrorWriterLayer::new())
        .layer(drain.layer());
    let server = serve(layers.service(service_fn(fail))).await?;
    let mut connection = h2::Connection::open(server.addr()).await?;
    let _hold = DrainToken::new(&drain);
    drain.start();
    let mut states = drain.watch();
    while !drain.state().is_refusing() {
        states.next().await;
    }
    let end = match connection.send(&Request::get("/")).await?.reply().await {
        Ok(reply) => reply.finish().await.end,
        Err(end) => end,
    };
    assert_eq!(end, End::Reset(h2::Reason::REFUSED_STREAM));
    Ok(())
}
