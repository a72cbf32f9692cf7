//! What two crates that read server-sent events get from each URL on the command line: one JSON object on stdout, by crate, with
//! a list of what was delivered for each URL.

use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use reqwest_eventsource::{Event, EventSource};
use serde_json::json;

/// The data of each event that is not named; an error ends the list.
async fn with_eventsource_stream(url: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let response = match reqwest::get(url).await {
        Ok(response) => response,
        Err(error) => return vec![format!("error: {error}")],
    };
    let mut events = response.bytes_stream().eventsource();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) if event.event == "message" => seen.push(event.data),
            Ok(_) => {}
            Err(error) => {
                seen.push(format!("error: {error}"));
                break;
            }
        }
    }
    seen
}

/// The same until it would reconnect.
async fn with_reqwest_eventsource(url: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let mut source = EventSource::get(url);
    while let Some(event) = source.next().await {
        match event {
            Ok(Event::Message(event)) if event.event == "message" => seen.push(event.data),
            Ok(_) => {}
            Err(reqwest_eventsource::Error::StreamEnded) => break,
            Err(error) => {
                seen.push(format!("error: {error}"));
                break;
            }
        }
    }
    source.close();
    seen
}

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout)] // for the script
async fn main() {
    let (mut stream, mut source) = (Vec::new(), Vec::new());
    for url in std::env::args().skip(1) {
        let url = format!("{url}/events");
        stream.push(with_eventsource_stream(&url).await);
        source.push(with_reqwest_eventsource(&url).await);
    }
    println!(
        "{}",
        json!({ "eventsource-stream": stream, "reqwest-eventsource": source })
    );
}
