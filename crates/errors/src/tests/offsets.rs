//! A panic after every byte of a stream, read by a parser that this project did not write.

use futures_util::{FutureExt, StreamExt};
use sse_codec::{Event, decode_stream};
use tower_stream_core::mock;

use super::*;

/// Events and lines of every shape: LF, CR, CRLF, mixed, a byte order mark, bytes of one character in two chunks,
/// comments, blocks without data, ids, several data lines, an event that is not ended.
const STREAMS: [&str; 8] = [
    "data: 1\n\ndata: 2\n\ndata: 3\n\n",
    "data: 1\r\n\r\ndata: 2\r\n\r\n",
    "data: 1\r\rdata: 2\r\r",
    "data: 1\n\rdata: 2\r\ndata: 3\r\n\r\rdata: 4\n\r\n",
    "\u{feff}data: first\n\n\u{feff}data: not a field\n\n",
    "event: wörld\nid: 🌍\ndata: grüße 🚀\ndata: zweite\n\n: kommentar\n\nretry: 10\n\ndata\n\n",
    "id: 1\n\n:\n\nevent: only\n\ndata: a\n\ndata:b\n\n",
    "data: 1\n\ndata: an event that never ends",
];

/// One-byte chunks, three-byte chunks, one chunk.
const CHUNKS: [usize; 3] = [1, 3, usize::MAX];

fn parse(bytes: &[u8]) -> Vec<Event> {
    let events = decode_stream(bytes).map(Result::unwrap).collect();
    let events: Vec<_> = FutureExt::now_or_never(events).unwrap();
    events
}

async fn fail_after(content_type: &str, bytes: &[u8], chunk: usize) -> Vec<u8> {
    // The body is pending at first, so that the head is sent before it fails.
    let mut steps = vec![mock::pending()];
    steps.extend(bytes.chunks(chunk).map(|chunk| mock::data(chunk.to_vec())));
    steps.push(mock::panic("scripted"));
    let response = answer(content_type, steps);
    let service = once(response);
    let service = ErrorWriterLayer::new().layer(service);
    let response = service.oneshot(get()).await.unwrap();
    assert_eq!(response.status(), 200);
    response
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes()
        .into()
}

#[tokio::test]
async fn a_panic_after_every_byte_of_an_event_stream() {
    let mut cases = 0;
    for stream in STREAMS {
        for at in 0..=stream.len() {
            let given = &stream.as_bytes()[..at];
            // The events that a client has received by then. The comment line that is appended ends a line that lacks
            // only its LF, and dispatches no event. Half a character at the end becomes a replacement character, which
            // is not part of a complete event.
            let text = String::from_utf8_lossy(given).into_owned() + ":\n";
            let whole = parse(text.as_bytes());
            for chunk in CHUNKS {
                let sent = fail_after(SSE, given, chunk).await;
                let mut seen = parse(&sent);
                let Some(Event::Message { event, data, .. }) = seen.pop() else {
                    panic!("no error event: {stream:?} at {at}");
                };
                assert_eq!((event.as_str(), data), ("error", told("panic", 500)));
                assert_eq!(seen, whole, "{stream:?} at {at} in {chunk}s");
                cases += 1;
            }
        }
    }
    assert!(cases > 900, "{cases}");
}

#[tokio::test]
async fn a_panic_after_every_byte_of_json_lines() {
    let stream = "{\"n\":1}\n{\"t\":\"grüße 🚀\"}\r\n[1,2]\n\n\"half a line";
    for at in 0..=stream.len() {
        let given = &stream.as_bytes()[..at];
        let whole = given
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        for chunk in CHUNKS {
            let sent = fail_after(LINES, given, chunk).await;
            let sent = String::from_utf8(sent).expect("no half character");
            assert_eq!(
                sent,
                format!("{}{}\n", &stream[..whole], told("panic", 500))
            );
            for line in sent.lines().filter(|line| !line.is_empty()) {
                serde_json::from_str::<serde_json::Value>(line).expect("whole lines");
            }
        }
    }
}
