//! Request ids and event ids as clients receive them, and the log of the same requests.

use std::{collections::BTreeSet, error::Error, time::Duration};

use demo_server::{Args, Server};
use e2e::{DemoProcess, End, Protocol, Request, Response, start_demo};
use futures_util::future::join_all;
use serde_json::Value;

type Outcome = Result<(), Box<dyn Error>>;

const NAME: &str = "x-request-id";

async fn get(server: &Server, protocol: Protocol, request: &Request) -> Result<Response, End> {
    protocol.send(server.public_addr(), request).await
}

/// The id lines of a response.
fn ids(response: &Response) -> Vec<&str> {
    response.head.headers.all(NAME).collect()
}

#[tokio::test]
async fn an_inbound_id_is_kept_and_a_bad_one_replaced() -> Outcome {
    let server = start_demo(Args::default()).await?;
    let long = "x".repeat(129);
    for protocol in Protocol::ALL {
        let good = Request::get("/whoami").header(NAME, "order-17");
        let response = get(&server, protocol, &good).await?;
        assert_eq!(ids(&response), ["order-17"], "{protocol:?}");
        assert_eq!(response.json()["request_id"], "order-17");

        let two = Request::get("/whoami")
            .header(NAME, "not good")
            .header(NAME, "good");
        let response = get(&server, protocol, &two.header(NAME, "late")).await?;
        assert_eq!(ids(&response), ["good"], "{protocol:?}");
        assert_eq!(response.json()["request_id"], "good");

        for bad in ["", "a b", "{\"a\"}", "<i>", long.as_str()] {
            let response = get(
                &server,
                protocol,
                &Request::get("/whoami").header(NAME, bad),
            )
            .await?;
            let [id] = ids(&response)[..] else {
                panic!("{protocol:?}: {response:?}")
            };
            assert_eq!(id.len(), 36, "{protocol:?} {bad:?}: {id}");
            assert_eq!(response.json()["request_id"], id);
        }
    }
    Ok(())
}

#[tokio::test]
async fn every_kind_of_answer_has_the_id_once() -> Outcome {
    let server = start_demo(Args::default()).await?;
    for protocol in Protocol::ALL {
        for (method, target, status) in [
            ("GET", "/events?count=1", 200),
            ("HEAD", "/events?count=1", 200),
            ("GET", "/bytes?size=10", 200),
            ("GET", "/no-such-route", 404),
            ("PUT", "/events", 405),
            ("GET", "/events?count=x", 400),
            ("GET", "/fail?how=panic-handler", 500),
        ] {
            let request = Request::new(method, target).header(NAME, "one");
            let response = get(&server, protocol, &request).await?;
            assert_eq!(response.status(), status, "{protocol:?} {method} {target}");
            assert_eq!(ids(&response), ["one"], "{protocol:?} {method} {target}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn events_are_numbered_from_one_whatever_ends_the_stream() -> Outcome {
    let server = start_demo(Args::default()).await?;
    for protocol in Protocol::ALL {
        let response = get(
            &server,
            protocol,
            &Request::get("/events?count=12&interval_ms=0"),
        )
        .await?;
        let text = response.text();
        let events: Vec<&str> = text.split_terminator("\n\n").collect();
        assert_eq!(events.len(), 12);
        for (event, n) in events.iter().zip(1..) {
            assert!(
                event.ends_with(&format!("\nid: {n}")),
                "{protocol:?}: {event}"
            );
        }
        // The record of the error writer has no id, so a client resumes after the last event of the stream.
        let failed = get(
            &server,
            protocol,
            &Request::get("/fail?how=error-body&after=3"),
        )
        .await?;
        let text = failed.text();
        let ids: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("id: "))
            .collect();
        assert_eq!(ids, ["1", "2", "3"], "{protocol:?}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn the_id_goes_on_to_the_server_that_is_called() -> Outcome {
    let second = start_demo(Args::default()).await?;
    let upstream = Some(format!("http://{}", second.public_addr()).parse()?);
    let first = start_demo(Args {
        upstream,
        ..Args::default()
    })
    .await?;
    for protocol in Protocol::ALL {
        let sent = get(
            &first,
            protocol,
            &Request::get("/whoami").header(NAME, "order-17"),
        )
        .await?;
        let made = get(&first, protocol, &Request::get("/whoami")).await?;
        for response in [sent, made] {
            let [id] = ids(&response)[..] else {
                panic!("{response:?}")
            };
            let answer = response.json();
            assert_eq!(answer["request_id"], id, "{protocol:?}");
            assert_eq!(answer["upstream"]["request_id"], id, "{protocol:?}");
        }
    }
    Ok(())
}

async fn demo(form: &str) -> Result<DemoProcess, Box<dyn Error>> {
    let mut command = DemoProcess::command()?;
    command
        .args(["--log", form])
        .env("RUST_LOG", "demo_server=debug,tower_stream_ids=debug");
    Ok(DemoProcess::start_command(&mut command).await?)
}

/// Waits until the log holds `count` lines like this.
async fn logged(demo: &DemoProcess, count: usize, like: impl Fn(&str) -> bool) {
    let found = async {
        while demo.log().text().lines().filter(|line| like(line)).count() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(e2e::PATIENCE, found).await;
    assert!(in_time.is_ok(), "{}", demo.log().text());
}

#[tokio::test]
async fn log_lines_of_a_stream_carry_its_ids_at_top_level() -> Outcome {
    let demo = demo("json").await?;
    let send = |protocol: Protocol, target: &'static str, id: String| {
        let address = demo.public_addr();
        async move {
            let request = Request::get(target).header(NAME, &id);
            protocol
                .send(address, &request)
                .await
                .map(|response| (id, response))
        }
    };
    let streams = ["a", "b", "c"].map(|name| {
        Protocol::ALL.map(|protocol| {
            send(
                protocol,
                "/events?count=5&interval_ms=2",
                format!("{name}-{protocol:?}"),
            )
        })
    });
    for answer in join_all(streams.into_iter().flatten()).await {
        let (id, response) = answer?;
        assert_eq!(ids(&response), [id]);
    }
    logged(&demo, 9, |line| {
        line.contains("a stream of records is gone")
    })
    .await;
    let lines = demo.log().json();
    let mut seen = BTreeSet::new();
    for line in &lines {
        let Some(id) = line["request_id"].as_str() else {
            assert!(line.get("sequence_id").is_none(), "{line}");
            continue;
        };
        seen.insert(id);
    }
    assert_eq!(seen.len(), 9, "{lines:#?}");
    for id in seen {
        let of_request = || lines.iter().filter(|line| line["request_id"] == id);
        let numbers: Vec<u64> = of_request()
            .filter_map(|line| line["sequence_id"].as_u64())
            .collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{id}: {numbers:?}");
        // The body logs these lines while it is polled, and the one after them while it is dropped.
        let made: Vec<u64> = of_request()
            .filter(|line| line["message"] == "made a record")
            .filter_map(|line| line["n"].as_u64())
            .collect();
        assert_eq!(made, [0, 1, 2, 3, 4], "{id}");
        assert!(of_request().any(|line| line["message"] == "a stream of records is gone"));
        // Each of the five chunks has also taken a number, between those of the lines.
        assert!(numbers.last() >= Some(&11), "{id}: {numbers:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_task_and_a_replaced_id_are_logged_under_the_request() -> Outcome {
    let demo = demo("json").await?;
    let request =
        Request::get("/fail?how=producer-panic&after=1&format=ndjson").header(NAME, "one");
    // Another test checks how this response ends.
    let _ = Protocol::Http11.send(demo.public_addr(), &request).await;
    let hostile = Request::get("/whoami").header(NAME, "{\"request_id\":\"evil\"}");
    let response = Protocol::Http11.send(demo.public_addr(), &hostile).await?;
    let [id] = ids(&response)[..] else {
        panic!("{response:?}")
    };
    logged(&demo, 1, |line| line.contains("replaced the request id")).await;
    // The panic hook of the standard library writes text between the JSON lines.
    let text = demo.log().text();
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let lines: Vec<Value> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    let with = |message: &str| {
        let line = lines.iter().find(|line| line["message"] == message);
        line.unwrap_or_else(|| panic!("{lines:#?}"))["request_id"].clone()
    };
    assert_eq!(with("a producer begins"), "one");
    assert_eq!(with("replaced the request id that a client sent"), id);
    assert!(!demo.log().text().contains("evil"));
    Ok(())
}

#[tokio::test]
async fn lines_of_text_carry_the_ids_too() -> Outcome {
    let demo = demo("text").await?;
    let request = Request::get("/lines?count=2&interval_ms=0").header(NAME, "one");
    Protocol::Http2.send(demo.public_addr(), &request).await?;
    logged(&demo, 1, |line| {
        line.contains("a stream of records is gone")
    })
    .await;
    let text = demo.log().text();
    let of_request: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(" request_id=one sequence_id="))
        .collect();
    assert!(of_request.len() >= 3, "{text}");
    Ok(())
}
