//! The chat endpoint over every protocol: tokens stream, and streamed equals whole.

use std::{error::Error, time::Duration};

use demo_server::{Args, Server};
use e2e::{End, Protocol, Request, Response, h1, start_demo};
use serde_json::{Value, json};

type Outcome = Result<(), Box<dyn Error>>;

fn chat(target: &str, changes: &Value) -> Request {
    let mut body = json!({
        "model": "demo",
        "messages": [{"role": "user", "content": "What did the rabbit say?"}],
        "max_tokens": 16,
    });
    for (name, value) in changes.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    Request::post(target, body.to_string()).header("Content-Type", "application/json")
}

async fn ask(server: &Server, protocol: Protocol, changes: &Value) -> Result<Response, End> {
    protocol
        .send(
            server.public_addr(),
            &chat("/v1/chat/completions?interval_ms=5", changes),
        )
        .await
}

/// The `data:` of each event.
fn events(response: &Response) -> Vec<String> {
    response
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn a_streamed_answer_is_the_whole_answer_in_pieces() -> Outcome {
    let server = start_demo(Args::default()).await?;
    let mut texts = Vec::new();
    for protocol in Protocol::ALL {
        let whole = ask(&server, protocol, &json!({})).await?;
        assert_eq!(
            (whole.status(), whole.header("content-type")),
            (200, Some("application/json"))
        );
        let whole = whole.json();
        let text = whole["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .to_owned();

        let streamed = ask(&server, protocol, &json!({"stream": true})).await?;
        assert_eq!(
            (streamed.status(), streamed.header("content-type")),
            (200, Some("text/event-stream"))
        );
        let mut events = events(&streamed);
        assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{protocol:?}");
        let chunks: Vec<Value> = events
            .iter()
            .map(|event| serde_json::from_str(event).unwrap())
            .collect();
        let deltas = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
        assert_eq!(deltas.collect::<String>(), text, "{protocol:?}");
        assert!(
            chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]),
            "one answer has one id"
        );
        let reason = |value: &Value| value["choices"][0]["finish_reason"].clone();
        assert_eq!(chunks.last().map(reason), Some(reason(&whole)));
        texts.push(text);
    }
    assert!(!texts[0].is_empty());
    assert!(
        texts.iter().all(|text| *text == texts[0]),
        "the same request, the same tokens: {texts:?}"
    );
    Ok(())
}

#[tokio::test]
async fn tokens_come_one_by_one() -> Outcome {
    let server = start_demo(Args::default()).await?;
    for protocol in Protocol::ALL {
        let request = chat(
            "/v1/chat/completions?interval_ms=20",
            &json!({"stream": true}),
        );
        let response = protocol.send(server.public_addr(), &request).await?;
        assert!(
            response.spread() >= Duration::from_millis(100),
            "{protocol:?}: {:?}",
            response.spread()
        );
        assert!(
            response.chunks.len() >= 10,
            "{protocol:?}: {} pieces",
            response.chunks.len()
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_counts_its_tokens_when_asked() -> Outcome {
    let server = start_demo(Args::default()).await?;
    let whole = ask(&server, Protocol::Http11, &json!({})).await?.json();
    let changes = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = events(&ask(&server, Protocol::Http2, &changes).await?);
    let usage: Value = serde_json::from_str(&events[events.len() - 2])?;
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"], whole["usage"]);
    Ok(())
}

#[tokio::test]
async fn a_bad_request_is_an_openai_error() -> Outcome {
    let server = start_demo(Args::default()).await?;
    for protocol in Protocol::ALL {
        for (changes, param) in [
            (json!({"messages": []}), "messages"),
            (json!({"stream": "yes"}), "stream"),
            (json!({"max_tokens": -1}), "max_tokens"),
        ] {
            let response = ask(&server, protocol, &changes).await?;
            assert_eq!(response.status(), 400, "{protocol:?} {changes}");
            let error = &response.json()["error"];
            assert_eq!(
                (&error["type"], &error["param"]),
                (&json!("invalid_request_error"), &json!(param))
            );
        }
        let garbage =
            Request::post("/v1/chat/completions", "{").header("Content-Type", "application/json");
        assert_eq!(
            protocol
                .send(server.public_addr(), &garbage)
                .await?
                .status(),
            400
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_stream() -> Outcome {
    let server = start_demo(Args::default()).await?;
    let mut connection = h1::Connection::open(server.public_addr()).await?;
    for _ in 0..3 {
        connection
            .send(&chat(
                "/v1/chat/completions?interval_ms=0",
                &json!({"stream": true}),
            ))
            .await?;
        let response = connection.reply().await?.finish().await;
        assert_eq!((response.status(), response.end), (200, End::LastChunk));
    }
    Ok(())
}
