use proptest::prelude::*;

use super::*;

const CHAT: &str =
    "data: {\"choices\":[{\"delta\":{\"content\":\"say [DONE]\"}}]}\n\ndata: [DONE]\n\n";
const RESPONSES: &str = "event: response.output_text.delta\ndata: {\"delta\":\"response.completed\",\"type\":\"response.output_text.delta\"}\n\n\
    event: response.completed\ndata: {\"response\":{},\"type\":\"response.completed\"}\n\n";
const MESSAGES: &str = "event: ping\ndata: {\"type\":\"ping\"}\n\nevent: content_block_delta\n\
    data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"message_stop\"}}\n\n\
    event: message_stop\ndata: {\"type\":\"message_stop\",\"amazon-bedrock-invocationMetrics\":{\"latency\":1}}\n\n";
const GEMINI: &str = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"functionCall\":{\"args\":{\"finishReason\":\"a\"}}}]}}]}\n\n\
    data: {\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{}}\n\n";
const MCP: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"sampling/createMessage\",\"id\":1}\n\n\
    data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n";
const OLLAMA: &str = "{\"message\":{\"content\":\"\\\"done\\\":true\"},\"done\":false}\n\
    {\"done\":true,\"total_duration\":1}\n";

/// A whole stream of each dialect, which says elsewhere what its last record says.
const STREAMS: [(Dialect, &str); 7] = [
    (Dialect::OPENAI_CHAT, CHAT),
    (Dialect::VERCEL_UI, CHAT),
    (Dialect::OPENAI_RESPONSES, RESPONSES),
    (Dialect::ANTHROPIC, MESSAGES),
    (Dialect::GEMINI, GEMINI),
    (Dialect::MCP, MCP),
    (Dialect::OLLAMA, OLLAMA),
];

fn detector(dialect: &Dialect) -> Detector {
    dialect.detector(&Method::POST).unwrap()
}

/// How many bytes had been given when the last record was found.
fn found<'a>(dialect: &Dialect, chunks: impl IntoIterator<Item = &'a [u8]>) -> Option<usize> {
    let mut detector = detector(dialect);
    let mut given = 0;
    for chunk in chunks {
        given += chunk.len();
        if !detector.passes(chunk) && detector.push(chunk) {
            return Some(given);
        }
    }
    detector.finish().then_some(given)
}

#[test]
fn the_last_record_is_found_wherever_the_stream_is_cut() {
    for (dialect, stream) in STREAMS {
        for line_end in ["\n", "\r\n", "\r"] {
            if dialect.kind() == StreamKind::JsonLines && line_end != "\n" {
                continue;
            }
            let stream = stream.replace('\n', line_end);
            let stream = stream.as_bytes();
            assert_eq!(found(&dialect, [stream]), Some(stream.len()), "{dialect:?}");
            for cut in 1..stream.len() {
                let (a, b) = stream.split_at(cut);
                let whole = found(&dialect, [a, b]);
                assert!(whole.is_some(), "{dialect:?} cut at {cut}");
            }
            let bytes = stream.chunks(1);
            assert!(found(&dialect, bytes).is_some(), "{dialect:?} byte by byte");
        }
    }
}

#[test]
fn a_stream_that_was_cut_is_incomplete() {
    for (dialect, stream) in STREAMS {
        let last = stream[..stream.len() - 2].rfind("\n\n").map(|at| at + 2);
        let last = last.or_else(|| stream[..stream.len() - 1].rfind('\n').map(|at| at + 1));
        let cut = &stream[..last.unwrap()];
        assert_eq!(found(&dialect, [cut.as_bytes()]), None, "{dialect:?}");
        assert_eq!(
            found(&dialect, cut.as_bytes().chunks(1)),
            None,
            "{dialect:?}"
        );
        // Each record comes in a chunk of its own, as handlers return them.
        let records = cut.split_inclusive("\n\n").map(str::as_bytes);
        assert_eq!(found(&dialect, records), None, "{dialect:?}");
    }
}

#[test]
fn a_last_record_without_its_blank_line_counts_at_the_end() {
    for end in ["data: [DONE]", "data: [DONE]\n", "data:[DONE]\r\n"] {
        assert!(
            found(&Dialect::OPENAI_CHAT, [end.as_bytes()]).is_some(),
            "{end:?}"
        );
    }
    assert!(found(&Dialect::OLLAMA, [&b"{\"status\":\"success\"}"[..]]).is_some());
}

#[test]
fn a_comment_behind_the_last_record_in_the_same_chunk_hides_nothing() {
    let chunk = "data: [DONE]\n\n: bye\n\n";
    assert!(found(&Dialect::OPENAI_CHAT, [chunk.as_bytes()]).is_some());
}

/// The search of a chunk takes blocks of 64 bytes, up to 256 bytes.
#[test]
fn a_finish_reason_is_found_wherever_it_stands_in_a_chunk() {
    for (before, after) in [(0, 300), (300, 0)]
        .into_iter()
        .chain((0..130).map(|before| (before, 40)))
        .chain((0..130).map(|after| (0, after)))
        .chain((0..200).map(|after| (70, after)))
    {
        for end in ["\n\n", "\r\n\r\n"] {
            let (before, after) = ("x".repeat(before), "y".repeat(after));
            let event = |reason: &str| {
                format!(
                    "data: {{\"b\":\"{before}\",\"candidates\":[{{{reason}}}],\"a\":\"{after}\"}}{end}"
                )
            };
            let other = event("");
            let last = event("\"finishReason\":\"STOP\"");
            let mut detector = detector(&Dialect::GEMINI);
            assert!(!detector.push(b"data: {}\n\n"));
            assert!(detector.passes(other.as_bytes()), "{other}");
            assert!(!detector.passes(last.as_bytes()), "{last}");
            assert!(detector.push(last.as_bytes()), "{last}");
        }
    }
}

/// A chunk passes without a search only between two records, and with whole records.
#[test]
fn a_part_of_a_record_does_not_pass() {
    for (dialect, event) in [
        (Dialect::OPENAI_CHAT, "data: {}\n\n"),
        (Dialect::GEMINI, "data: {}\n\n"),
        (Dialect::OLLAMA, "{\"done\":false}\n"),
    ] {
        let event = event.as_bytes();
        for cut in 1..event.len() {
            let (begin, rest) = event.split_at(cut);
            let mut detector = detector(&dialect);
            assert!(
                !detector.passes(event),
                "the stream may begin with a byte order mark"
            );
            assert!(!detector.push(event) && detector.passes(event));
            assert!(!detector.passes(begin) && !detector.push(begin));
            assert!(!detector.passes(event), "{dialect:?} inside of a record");
            assert!(!detector.push(rest) && detector.passes(event));
        }
    }
    let mut detector = detector(&Dialect::GEMINI);
    assert!(!detector.push(b"data: {}\r\n\r"));
    assert!(!detector.passes(b"\ndata: {}\n\n"));
}

#[test]
fn a_client_that_comes_back_is_owed_nothing() {
    let primed = "id: 7\ndata:\n\n";
    assert!(found(&Dialect::MCP, [primed.as_bytes()]).is_some());
    assert!(found(&Dialect::MCP, [&b"data: {\"method\":\"x\"}\n\n"[..]]).is_none());
    assert!(Dialect::MCP.detector(&Method::GET).is_none());
}

#[test]
fn a_record_that_is_too_long_to_be_kept_counts_by_its_needle() {
    for (needle, last) in [("finishReason", true), ("finish", false)] {
        let long = format!("data: {{\"text\":\"{}\"", "x".repeat(300 * 1024));
        let rest = format!(",\"{needle}\":\"STOP\"}}\n\n");
        let mut detector = detector(&Dialect::GEMINI);
        assert!(!detector.push(long.as_bytes()));
        assert_eq!(detector.push(rest.as_bytes()), last);
        assert!(detector.push(b"data: {\"candidates\":[{\"finishReason\":\"STOP\"}]}\n\n"));
    }
}

#[test]
fn forms_are_whole_records() {
    let id: RequestId = "r1".parse().unwrap();
    let report = ErrorReport::new(
        FaultKind::Drain,
        StatusCode::SERVICE_UNAVAILABLE,
        "going \"away\"\nnow",
    )
    .with_request_id(Some(&id))
    .with_retry_after(Some(Duration::from_millis(1500)));
    let plain = [StreamKind::Sse, StreamKind::JsonLines, StreamKind::JsonSeq];
    let dialects = STREAMS.map(|(dialect, _)| dialect);
    for dialect in dialects.into_iter().chain(plain.map(Dialect::plain)) {
        let format = dialect.kind().records().unwrap();
        for text in [dialect.error(&report), dialect.farewell(&report)] {
            let mut scanner = crate::boundary::Scanner::new(format);
            let ends: Vec<_> = scanner.boundaries(text.as_bytes()).collect();
            assert_eq!(ends, [text.len()], "{dialect:?} {text:?}");
            assert!(!text.contains("id: "), "{text:?}");
        }
    }
    assert_eq!(
        Dialect::plain(StreamKind::Sse).farewell(&report),
        "event: drain\ndata: {\"reason\":\"drain\",\"detail\":\"going \\\"away\\\"\\nnow\",\"retry_ms\":1500}\nretry: 1500\n\n"
    );
}

proptest! {
    #[test]
    fn any_cut_finds_what_the_whole_stream_finds(
        which in 0..STREAMS.len(),
        cuts in proptest::collection::vec(0..400_usize, 0..6),
        twice in any::<bool>(),
    ) {
        let (dialect, stream) = STREAMS[which];
        let stream = if twice { stream.repeat(2) } else { stream.to_owned() };
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % stream.len()).collect();
        cuts.sort_unstable();
        let ends = cuts.iter().copied().chain([stream.len()]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        let chunks = starts.zip(ends).map(|(from, to)| &stream.as_bytes()[from..to]);
        prop_assert!(found(&dialect, chunks).is_some());
    }
}
