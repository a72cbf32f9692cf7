//! Ids of server-sent events.

use super::*;

#[tokio::test]
async fn each_event_without_an_id_gets_its_number() {
    let name = SequenceLayer::new().event_id(EventId::RequestAndNumber);
    let two = ["data: a\n\n", "event: e\ndata: b\ndata: c\n\n"];
    assert_eq!(
        text(SequenceLayer::new(), "text/event-stream", &two).await,
        "data: a\nid: 1\n\nevent: e\ndata: b\ndata: c\nid: 2\n\n"
    );
    assert_eq!(
        text(name, "text/event-stream", &two).await,
        "data: a\nid: r1-1\n\nevent: e\ndata: b\ndata: c\nid: r1-2\n\n"
    );
    // An event keeps its own id, and still counts.
    assert_eq!(
        sse("id: x\ndata\n\ndata:b\n\nid\ndata: c\n\n").await,
        "id: x\ndata\n\ndata:b\nid: 2\n\nid\ndata: c\n\n"
    );
}

#[tokio::test]
async fn what_a_client_never_sees_is_no_event() {
    let input =
        ": comment\n\nretry: 5\n\nevent: e\n\nid: 7\n\n\n\ndatax: 1\n\nx data: 1\n\nidx\ndata\n\n";
    assert_eq!(
        sse(input).await,
        input.replace("idx\ndata\n", "idx\ndata\nid: 1\n")
    );
    // The event does not end, so it is never dispatched.
    assert_eq!(sse("data: a\n").await, "data: a\n");
    assert_eq!(sse("data: a").await, "data: a");
    // Clients ignore a field that contains a NUL.
    assert_eq!(sse("id: a\0\ndata\n\n").await, "id: a\0\ndata\nid: 1\n\n");
}

#[tokio::test]
async fn every_line_end_and_a_byte_order_mark() {
    assert_eq!(
        sse("\u{feff}data: a\r\n\r\ndata: b\r\rdata: c\n\r\n").await,
        "\u{feff}data: a\r\nid: 1\n\r\ndata: b\rid: 2\n\rdata: c\nid: 3\n\r\n"
    );
    // Anywhere but at the start it is part of the field name.
    assert_eq!(
        sse("data\n\n\u{feff}data\n\n").await,
        "data\nid: 1\n\n\u{feff}data\n\n"
    );
}

const SAMPLES: [&str; 7] = [
    "data: 1\n\ndata: 2\n\n",
    "data: 1\r\n\r\ndata: 2\r\n\r\nid: 1\r\n\r\n",
    "data\r\rid: a\r\nevent: b\n\ndata:\r\n\n",
    "\u{feff}data: 1\n\n: comment\n\n\n\nretry: 3\n\ndata: \u{1f600}\u{e9}\nid\n\n",
    "\u{feff}\u{feff}data\n\ndata\n\n\r\n\r",
    "id: \0\ndata\n\nid: 123456789\0\ndata\n\nid: 123456789\ndata\n\n",
    "dat\n\ndataa\n\ni\n\nidd\ndata: id: data: 1\n\n",
];

#[test]
fn every_split_gives_the_stamps_of_the_whole_and_holds_nothing() {
    let stamped = |pieces: &[&[u8]]| {
        let mut stamper = SseStamper::new(None, 0);
        let mut out = Vec::new();
        for piece in pieces {
            let stamped = stamper.stamp(Bytes::copy_from_slice(piece));
            assert!(stamped.ends_with(&piece[piece.len().saturating_sub(1)..]));
            assert!(stamped.len() >= piece.len());
            out.extend_from_slice(&stamped);
        }
        String::from_utf8(out).unwrap()
    };
    for sample in SAMPLES {
        let bytes = sample.as_bytes();
        let whole = stamped(&[bytes]);
        for one in 0..=bytes.len() {
            for two in one..=bytes.len() {
                let pieces = [&bytes[..one], &bytes[one..two], &bytes[two..]];
                assert_eq!(stamped(&pieces), whole, "{sample:?} cut at {one} and {two}");
            }
        }
        assert_eq!(stamped(&bytes.chunks(1).collect::<Vec<_>>()), whole);
    }
}

/// Parses a stream as a client does (WHATWG HTML section 9.2.6): the data and the last event id of each event.
fn client(stream: &str) -> Vec<(String, String)> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
    let stream = stream.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = stream.split('\n').collect();
    lines.pop();
    let (mut events, mut data, mut last_id) = (Vec::new(), String::new(), String::new());
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" if line.is_empty() && !data.is_empty() => {
                events.push((std::mem::take(&mut data), last_id.clone()));
            }
            "data" => data = format!("{data}{value}\n"),
            "id" if !value.contains('\0') => value.clone_into(&mut last_id),
            _ => {}
        }
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn a_client_sees_the_same_events_with_the_right_ids(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("data"), Just("data: x"), Just("id"), Just("id: own"), Just("id: \0"), Just(":"), Just("retry: 1"),
                Just("\n"), Just("\r"), Just("\r\n"), Just("\n\n"), Just("\r\n\r\n"), Just("\u{feff}"),
            ],
            0..24,
        ),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        let input = parts.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|at| at.index(input.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(input.len());
        let mut stamper = SseStamper::new(None, 0);
        let (mut out, mut from) = (Vec::new(), 0);
        for cut in cuts {
            out.extend_from_slice(&stamper.stamp(Bytes::copy_from_slice(&input.as_bytes()[from..cut])));
            from = cut;
        }
        let out = String::from_utf8(out).unwrap();
        let (before, after) = (client(&input), client(&out));
        prop_assert_eq!(before.len(), after.len());
        for (n, ((data, id), (data_after, id_after))) in before.iter().zip(&after).enumerate() {
            prop_assert_eq!(data, data_after);
            let stamped = (n + 1).to_string();
            prop_assert!(*id_after == stamped || id_after == id, "{} at {}: {:?}", id_after, n, out);
        }
    }
}
