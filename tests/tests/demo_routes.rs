//! What the demo promises of its streams, over every protocol: `/events`, `/lines`, `/bytes`, the probes, and clear errors.

use std::{error::Error, time::Duration};

use demo_server::{Args, Server};
use e2e::{End, Protocol, Request, Response, h2, start_demo};
use serde_json::Value;

type Outcome = Result<(), Box<dyn Error>>;

async fn get(server: &Server, protocol: Protocol, target: &str) -> Result<Response, End> {
    protocol
        .send(server.public_addr(), &Request::get(target))
        .await
}

/// How a stream of unknown length ends well.
fn streamed(protocol: Protocol) -> End {
    match protocol {
        Protocol::Http10 => End::Closed,
        Protocol::Http11 => End::LastChunk,
        Protocol::Http2 => End::EndStream,
    }
}

/// How a body of known length ends well.
fn counted(protocol: Protocol) -> End {
    match protocol {
        Protocol::Http2 => End::EndStream,
        _ => End::Length,
    }
}

/// The JSON objects of an SSE or NDJSON body; SSE fields besides `data` are passed over.
fn objects(response: &Response) -> Vec<Value> {
    let text = response.text();
    let objects = text
        .lines()
        .map(|line| line.strip_prefix("data: ").unwrap_or(line));
    objects
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn events_and_lines_give_what_was_asked_for() -> Outcome {
    let server = start_demo(Args::default()).await?;
    for (route, content_type) in [
        ("events", "text/event-stream"),
        ("lines", "application/x-ndjson"),
    ] {
        for protocol in Protocol::ALL {
            let response = get(
                &server,
                protocol,
                &format!("/{route}?count=5&interval_ms=1&bytes=77"),
            )
            .await?;
            assert_eq!(response.status(), 200, "{route} {protocol:?}");
            assert_eq!(response.header("content-type"), Some(content_type));
            let cache_control = response.header("cache-control");
            assert_eq!(cache_control, Some("no-cache, no-transform"));
            assert_eq!(
                response.header("x-accel-buffering"),
                Some("no"),
                "or nginx holds the stream back"
            );
            assert_eq!(response.end, streamed(protocol), "{route} {protocol:?}");
            let objects = objects(&response);
            assert_eq!(objects.len(), 5);
            for (n, object) in objects.iter().enumerate() {
                assert_eq!(object["n"], n);
                assert_eq!(object["text"].as_str().map(str::len), Some(77));
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_record_is_one_frame_and_comes_when_it_is_made() -> Outcome {
    // On a busy machine two records may be ready at once.
    let args = Args {
        coalesce: 0,
        ..Args::default()
    };
    let server = start_demo(args).await?;
    for route in ["events", "lines"] {
        for protocol in [Protocol::Http11, Protocol::Http2] {
            let response = get(
                &server,
                protocol,
                &format!("/{route}?count=4&interval_ms=20"),
            )
            .await?;
            assert_eq!(response.chunks.len(), 4, "{route} {protocol:?}");
            assert!(
                response
                    .chunks
                    .iter()
                    .all(|chunk| chunk.data.ends_with(b"\n"))
            );
            // The last of four records is sent at least three intervals after the first. If the stream were buffered,
            // all would arrive together.
            assert!(
                response.spread() >= Duration::from_millis(40),
                "{route} {protocol:?}: {:?}",
                response.spread()
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_endless_stream_goes_on_until_its_reader_leaves() -> Outcome {
    let server = start_demo(Args::default()).await?;
    for route in ["events", "lines"] {
        let mut connection = h2::Connection::open(server.public_addr()).await?;
        let target = format!("/{route}?count=0&interval_ms=0&bytes=1");
        let mut reply = connection
            .send(&Request::get(&target))
            .await?
            .reply()
            .await?;
        for _ in 0..200 {
            assert!(reply.chunk().await.is_some());
        }
        reply.reset(h2::Reason::CANCEL);
        let next = connection
            .send(&Request::get("/lines?count=1"))
            .await?
            .reply()
            .await?
            .finish()
            .await;
        assert_eq!(next.end, End::EndStream, "the connection is still good");
    }
    Ok(())
}

#[tokio::test]
async fn bytes_are_counted_and_in_order() -> Outcome {
    let server = start_demo(Args::default()).await?;
    for protocol in Protocol::ALL {
        for size in [0, 1, 4096, 100_001] {
            for length in [0, 1] {
                let target = format!("/bytes?size={size}&chunk=1000&length={length}");
                let response = get(&server, protocol, &target).await?;
                let body = response.body();
                assert_eq!(body.len(), size, "{protocol:?} {target}");
                assert!(
                    body.iter()
                        .enumerate()
                        .all(|(i, byte)| usize::from(*byte) == i % 251),
                    "{target}"
                );
                if length == 1 {
                    assert_eq!(
                        response.header("content-length"),
                        Some(size.to_string().as_str())
                    );
                    assert_eq!(response.end, counted(protocol));
                } else if size > 0 {
                    assert_eq!(response.header("content-length"), None);
                    assert_eq!(response.end, streamed(protocol));
                }
            }
        }
        let head = protocol
            .send(server.public_addr(), &Request::head("/bytes?size=5000"))
            .await?;
        assert_eq!(
            (
                head.status(),
                head.header("content-length"),
                head.body().len()
            ),
            (200, Some("5000"), 0)
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_parameter_is_named() -> Outcome {
    let server = start_demo(Args::default()).await?;
    for (target, parameter) in [
        ("/events?count=-1", "count"),
        ("/events?count=1.5", "count"),
        ("/events?interval_ms=soon", "interval_ms"),
        ("/events?bytes=99999999999", "bytes"),
        ("/events?cuont=3", "cuont"),
        ("/events?count=1&count=2", "count"),
        ("/lines?count=", "count"),
        ("/bytes?size=huge", "size"),
        ("/bytes?chunk=0", "chunk"),
        ("/bytes?length=2", "length"),
        ("/fail", "how"),
        ("/fail?how=gently", "how"),
        ("/fail?how=hang&format=xml", "format"),
    ] {
        for protocol in Protocol::ALL {
            let response = get(&server, protocol, target).await?;
            assert_eq!(response.status(), 400, "{protocol:?} {target}");
            assert_eq!(
                response.header("content-type"),
                Some("application/problem+json")
            );
            assert_eq!(response.end, counted(protocol));
            let problem = response.json();
            assert_eq!(problem["status"], 400);
            assert_eq!(problem["parameter"], parameter, "{target}");
            assert!(
                problem["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.contains(parameter)),
                "{problem}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_route_or_method_is_a_problem() -> Outcome {
    let server = start_demo(Args::default()).await?;
    for (addr, request, status) in [
        (server.public_addr(), Request::get("/nowhere"), 404),
        (server.public_addr(), Request::post("/events", ""), 405),
        (server.admin_addr(), Request::get("/nowhere"), 404),
        (server.admin_addr(), Request::post("/livez", ""), 405),
    ] {
        for protocol in Protocol::ALL {
            let response = protocol.send(addr, &request).await?;
            assert_eq!(response.status(), status, "{protocol:?} {request:?}");
            assert_eq!(
                response.header("content-type"),
                Some("application/problem+json")
            );
            assert_eq!(response.json()["status"], status);
            assert_eq!(response.header("allow").is_some(), status == 405);
        }
    }
    Ok(())
}

#[tokio::test]
async fn probes_are_on_the_admin_listener_only() -> Outcome {
    let server = start_demo(Args::default()).await?;
    for protocol in Protocol::ALL {
        for route in ["/livez", "/readyz", "/status"] {
            let probe = protocol
                .send(server.admin_addr(), &Request::get(route))
                .await?;
            assert_eq!(
                (probe.status(), probe.header("content-type")),
                (200, Some("application/json")),
                "{route}"
            );
            assert!(probe.json().is_object());
            assert_eq!(
                get(&server, protocol, route).await?.status(),
                404,
                "{route}"
            );
        }
        for route in ["/events", "/lines", "/bytes"] {
            assert_eq!(
                protocol
                    .send(server.admin_addr(), &Request::get(route))
                    .await?
                    .status(),
                404,
                "{route}"
            );
        }
    }
    Ok(())
}
