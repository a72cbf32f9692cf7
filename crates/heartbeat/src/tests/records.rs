//! Heartbeats are written between records.

use proptest::prelude::*;
use tower_stream_core::{RecordFormat, boundary::Scanner};

use super::*;

#[tokio::test(start_paused = true)]
async fn none_comes_within_a_record_however_it_is_cut() {
    let wait = || mock::sleep(seconds(9));
    for (frames, expected) in [
        (
            &["data: 1\n\nda", "ta: 2\n\n"][..],
            "data: 1\n\ndata: 2\n\n|",
        ),
        (&["data: 1\n", "\n"], "data: 1\n\n|"),
        (&["data: 1\r\n\r\n"], "data: 1\r\n\r\n|"),
        // A LF may still follow; if it does not, the stream continues.
        (&["data: 1\r\n\r", "\n"], "data: 1\r\n\r\n|"),
        (
            &["data: 1\r\n\r", "\ndata: 2\n\n"],
            "data: 1\r\n\r\ndata: 2\n\n|",
        ),
        // A stream whose line end is CR.
        (&["data: 1\r\r", "data: 2\r\r"], "data: 1\r\r|data: 2\r\r|"),
        (&["\u{feff}", "data: 1\n\n"], "\u{feff}|data: 1\n\n|"),
        (&["\u{feff}data: 1\n\n"], "\u{feff}data: 1\n\n|"),
        (&["data: 1\n\n", "\n"], "data: 1\n\n|\n|"),
        (
            &["data: never ends\n", "data: so\n"],
            "data: never ends\ndata: so\n",
        ),
    ] {
        let steps: Vec<_> = frames
            .iter()
            .flat_map(|frame| [mock::data(*frame), wait()])
            .collect();
        let all = sent(&layer(), steps).await;
        assert_eq!(all.replace(COMMENT, "|"), expected, "{frames:?}");
    }
}

/// After a heartbeat, a byte order mark is not one any more: clients would take it for a part of the first field name.
#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_is_the_first_thing_or_goes() {
    let steps = [mock::sleep(seconds(9)), mock::data("\u{feff}data: 1\n\n")];
    let all = sent(&layer().before_first(true), steps).await;
    assert_eq!(all, format!("{COMMENT}data: 1\n\n"));
}

#[tokio::test(start_paused = true)]
async fn an_event_of_a_megabyte_is_not_broken() {
    let piece = "x".repeat(10_000);
    let mut steps = vec![mock::data("data: ")];
    for _ in 0..100 {
        steps.push(mock::data(piece.clone()));
        steps.push(mock::sleep(seconds(1)));
    }
    steps.push(mock::data("\n\n"));
    steps.push(mock::hang());
    let mut body = under(&layer(), events(steps)).await.into_body();
    let frames = read(&mut body, seconds(110)).await;
    let all: String = frames.into_iter().map(|(_, text)| text).collect();
    let expected = format!("data: {}\n\n", piece.repeat(100));
    assert!(
        all.strip_prefix(&expected)
            .is_some_and(|rest| rest == COMMENT)
    );
}

#[tokio::test(start_paused = true)]
async fn a_comment_loses_its_blank_line_once_there_was_an_id() {
    let steps = || {
        [
            mock::data("data: 1\n\n"),
            mock::sleep(seconds(9)),
            mock::data("data: 2\ni"),
            mock::data("d: 2\n\n"),
            mock::sleep(seconds(9)),
        ]
    };
    let layer = layer().events(Heartbeat::comment_unless_ids());
    let all = sent(&layer, steps()).await;
    assert_eq!(
        all,
        format!("data: 1\n\n{COMMENT}data: 2\nid: 2\n\n{ALONE}")
    );
    // With a blank line in any case.
    let comments = layer.clone().events(Heartbeat::comment());
    let all = sent(&comments, steps()).await;
    assert_eq!(
        all,
        format!("data: 1\n\n{COMMENT}data: 2\nid: 2\n\n{COMMENT}")
    );
    // The `retry:` of the layer is one more field that affects the rest of the stream.
    let all = sent(&layer.retry(seconds(3)), steps()).await;
    let (retry, rest) = all.split_once('\n').unwrap();
    assert!(retry.starts_with("retry: "), "{all:?}");
    assert_eq!(rest, format!("data: 1\n\n{ALONE}data: 2\nid: 2\n\n{ALONE}"));
}

/// The search for ids ends if the first chunks had none, and starts again after a heartbeat.
#[tokio::test(start_paused = true)]
async fn ids_are_searched_for_at_the_beginning_and_after_each_heartbeat() {
    let number = |n: usize| mock::data(format!("data: {n}\nid: {n}\n\n"));
    for (first, found) in [(0, ALONE), (15, ALONE), (16, COMMENT)] {
        let mut steps: Vec<_> = (0..first).map(|_| mock::data("data: 1\n\n")).collect();
        let wait = || mock::sleep(seconds(9));
        steps.extend([number(1), wait(), number(2), wait()]);
        let all = sent(&layer(), steps).await;
        let rest = all.strip_prefix(&"data: 1\n\n".repeat(first)).unwrap();
        let expected = format!("data: 1\nid: 1\n\n{found}data: 2\nid: 2\n\n{ALONE}");
        assert_eq!(rest, expected, "after {first} without");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_comes_once_in_the_first_event() {
    let steps = [
        mock::data(": hello\n\n"),
        mock::data("event: x\nda"),
        mock::data("ta: 1\n\n"),
        mock::data("data: 2\n\n"),
    ];
    let all = sent(&layer().retry(seconds(3)), steps).await;
    let (before, rest) = all.split_once("retry: ").unwrap();
    assert_eq!(before, ": hello\n\n");
    let (millis, rest) = rest.split_once('\n').unwrap();
    assert!((3000..=4500).contains(&millis.parse::<u32>().unwrap()));
    assert_eq!(rest, "event: x\ndata: 1\n\ndata: 2\n\n");
}

#[tokio::test(start_paused = true)]
async fn lines_have_none_unless_asked() {
    let lines = || {
        let response = Response::builder().header("content-type", "application/x-ndjson");
        let steps = [
            mock::data("{\"a\":1}\n{"),
            mock::sleep(seconds(9)),
            mock::data("\"b\":2}\n"),
            mock::sleep(seconds(9)),
        ];
        response.body(MockBody::new(steps)).unwrap()
    };
    for (layer, expected) in [
        (layer(), "{\"a\":1}\n{\"b\":2}\n"),
        (
            layer().lines(Heartbeat::custom("\n")).retry(seconds(3)),
            "{\"a\":1}\n{\"b\":2}\n\n",
        ),
    ] {
        let mut body = under(&layer, lines()).await.into_body();
        let frames = read(&mut body, seconds(60)).await;
        let all: String = frames.into_iter().map(|(_, text)| text).collect();
        assert_eq!(all, expected);
    }
}

proptest! {
    /// For any bytes, split anywhere: without the heartbeats, the output is that of the handler, and no heartbeat is
    /// inside of a record.
    #[test]
    fn nothing_else_changes(frames in proptest::collection::vec("[:di\r\n\u{feff}]{1,8}", 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
        let steps = frames.iter().flat_map(|frame| [mock::data(frame.clone()), mock::sleep(seconds(9))]);
        let mut steps: Vec<_> = steps.collect();
        steps.push(bytes(b"\n"));
        runtime.block_on(async move {
            let mut body = under(&layer(), events(steps)).await.into_body();
            let mut scanner = Scanner::new(RecordFormat::Sse);
            let mut given = String::new();
            for (_, text) in read(&mut body, seconds(1_000)).await {
                if text == COMMENT || text == ALONE {
                    assert!(scanner.at_boundary(), "within {given:?}");
                } else {
                    scanner.last_boundary(text.as_bytes());
                    given.push_str(&text);
                }
            }
            assert_eq!(given, frames.concat() + "\n");
        });
    }
}
