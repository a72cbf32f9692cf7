//! `/fail`: every way to fail leaves the server standing, and what was sent before it arrives.

use std::{error::Error, time::Duration};

use demo_server::{Args, Server};
use e2e::{End, Protocol, Request, Response, h2, start_demo};
use futures_util::future::join_all;

type Outcome = Result<(), Box<dyn Error>>;

const HOW: [&str; 7] = [
    "panic-handler",
    "panic-body",
    "panic-drop",
    "error-body",
    "error-first",
    "producer-panic",
    "hang",
];
const FORMAT: [&str; 4] = ["sse", "ndjson", "bytes", "json"];

async fn impatient() -> std::io::Result<Server> {
    start_demo(Args {
        idle_timeout: Duration::from_millis(200),
        ..Args::default()
    })
    .await
}

async fn fail(server: &Server, protocol: Protocol, how: &str, rest: &str) -> Result<Response, End> {
    let target = format!("/fail?how={how}&after=2&interval_ms=5&{rest}");
    protocol
        .send(server.public_addr(), &Request::get(&target))
        .await
}

#[tokio::test]
async fn no_failure_ends_the_server_or_hangs_the_client() -> Outcome {
    let server = impatient().await?;
    let mut cases = Vec::new();
    for how in HOW {
        for format in FORMAT {
            for length in [0, 1] {
                cases.extend(Protocol::ALL.map(|protocol| (how, format, length, protocol)));
            }
        }
    }
    let ends = cases
        .into_iter()
        .map(async |(how, format, length, protocol)| {
            let rest = format!("format={format}&length={length}");
            let end = fail(&server, protocol, how, &rest)
                .await
                .map_or_else(|end| end, |response| response.end);
            assert_ne!(
                end,
                End::Stalled,
                "{how} {format} length={length} {protocol:?}"
            );
        });
    join_all(ends).await;
    let after = Protocol::Http11
        .send(server.public_addr(), &Request::get("/lines?count=1"))
        .await?;
    assert_eq!(after.end, End::LastChunk);
    Ok(())
}

#[tokio::test]
async fn records_before_the_failure_arrive() -> Outcome {
    let server = impatient().await?;
    for how in [
        "panic-body",
        "panic-drop",
        "error-body",
        "producer-panic",
        "hang",
    ] {
        for protocol in Protocol::ALL {
            let response = fail(&server, protocol, how, "format=ndjson").await?;
            let text = response.text();
            let records = text.lines().filter(|line| line.contains("\"n\":")).count();
            assert_eq!(
                (response.status(), records),
                (200, 2),
                "{how} {protocol:?}: {text}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_failure_is_no_business_of_its_h2_neighbours() -> Outcome {
    let server = start_demo(Args::default()).await?;
    let mut connection = h2::Connection::open(server.public_addr()).await?;
    let neighbour = connection
        .send(&Request::get("/lines?count=20&interval_ms=25"))
        .await?;
    for how in HOW.iter().filter(|how| **how != "hang") {
        let failing = connection
            .send(&Request::get(&format!(
                "/fail?how={how}&after=1&interval_ms=5"
            )))
            .await?;
        if let Ok(reply) = failing.reply().await {
            reply.finish().await;
        }
    }
    let neighbour = neighbour.reply().await?.finish().await;
    assert_eq!(
        (neighbour.text().lines().count(), neighbour.end),
        (20, End::EndStream)
    );
    Ok(())
}
