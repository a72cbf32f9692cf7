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

/// Every way to fail in every format, with and without a declared length, over every protocol.
fn cases() -> impl Iterator<Item = (&'static str, &'static str, u8, Protocol)> {
    HOW.into_iter().flat_map(|how| {
        FORMAT.into_iter().flat_map(move |format| {
            [0, 1].into_iter().flat_map(move |length| {
                Protocol::ALL.map(|protocol| (how, format, length, protocol))
            })
        })
    })
}

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
    let ends = cases().map(async |(how, format, length, protocol)| {
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

/// What a client has of a failure, as the documentation of `tower-stream-errors` names it.
fn ending(response: &Response, status: u16, kind: &str) -> &'static str {
    let text = response.text();
    let message = match kind {
        "timeout" => "the response took too long",
        _ => "the response failed on the server",
    };
    let id = response.header("x-request-id").unwrap_or_default();
    let told = format!(
        r#"{{"error":{{"kind":"{kind}","message":"{message}","request_id":"{id}","status":{status}}}}}"#
    );
    let mut from_behind = text.trim_end().lines().rev();
    let last = from_behind.next().unwrap_or_default();
    let second_last = from_behind.next();
    let closed = response.head.version == http::Version::HTTP_10 && response.end == End::Closed;
    let whole = response.end.is_whole() || closed;
    if response.status() != 200 {
        let problem = response.json();
        let expected = (&problem["status"], &problem["kind"]) == (&status.into(), &kind.into());
        return if expected && whole { "head" } else { "other" };
    }
    let sse = second_last == Some("event: error") && last == format!("data: {told}");
    match &response.end {
        _ if whole && (sse || last == told) => "record",
        End::Truncated | End::Reset(h2::Reason::INTERNAL_ERROR) => "cut",
        _ if closed => "silent",
        end if end.is_whole() => "whole",
        _ => "other",
    }
}

#[tokio::test]
async fn each_failure_ends_as_documented() -> Outcome {
    let server = impatient().await?;
    let cases = cases().map(async |(how, format, length, protocol)| {
        let (status, kind) = match how {
            "hang" => (504, "timeout"),
            "error-body" | "error-first" => (500, "internal"),
            _ => (500, "panic"),
        };
        let records = matches!(format, "sse" | "ndjson");
        // A stream to which ids are added has other bytes, so its declared length is removed.
        let declared = length == 1 && format != "sse";
        let expected = match how {
            "panic-handler" | "error-first" => "head",
            "panic-drop" if !declared && protocol == Protocol::Http10 => "silent",
            "panic-drop" => "whole",
            _ if declared => "cut",
            _ if records => "record",
            _ if protocol == Protocol::Http10 => "silent",
            _ => "cut",
        };
        let rest = format!("format={format}&length={length}");
        let response = fail(&server, protocol, how, &rest).await;
        let case = format!("{how} {rest} {protocol:?}");
        let response = response.unwrap_or_else(|end| panic!("{case}: no head: {end}"));
        assert!(
            !response.text().contains("asked to"),
            "{case}: {response:?}"
        );
        assert_eq!(
            ending(&response, status, kind),
            expected,
            "{case}: {response:?}"
        );
    });
    join_all(cases).await;
    Ok(())
}

#[tokio::test]
async fn a_failure_at_once_still_gets_a_status() -> Outcome {
    let server = impatient().await?;
    for how in ["panic-body", "error-body"] {
        let target = format!("/fail?how={how}&after=0&interval_ms=0");
        for protocol in Protocol::ALL {
            let request = Request::get(&target);
            let response = protocol.send(server.public_addr(), &request).await?;
            assert_eq!(response.status(), 500, "{how} {protocol:?}");
            let html = request.header("accept", "text/html");
            let page = protocol.send(server.public_addr(), &html).await?;
            assert!(page.text().starts_with("<!doctype html>"), "{page:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_chat_that_stalls_ends_in_the_form_of_its_clients() -> Outcome {
    let server = impatient().await?;
    let chat = r#"{"model":"demo","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let request = Request::post("/v1/chat/completions?interval_ms=60000", chat)
        .header("content-type", "application/json");
    for protocol in Protocol::ALL {
        let response = protocol.send(server.public_addr(), &request).await?;
        let text = response.text();
        let last = text.trim_end().lines().last().unwrap_or_default();
        let error = last.strip_prefix("data: ").unwrap_or_default();
        let error: serde_json::Value = serde_json::from_str(error)?;
        assert_eq!(error["error"]["code"], "timeout", "{protocol:?}: {text}");
        assert!(
            !text.contains("[DONE]") && !text.contains("event:"),
            "{text}"
        );
    }
    Ok(())
}
