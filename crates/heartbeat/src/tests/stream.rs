//! When heartbeats are written.

use futures_util::FutureExt;

use tower_stream_core::{Dialect, StreamKind};

use super::*;

#[tokio::test(start_paused = true)]
async fn an_idle_stream_has_one_in_each_interval() {
    let steps = [mock::data("data: 1\n\n"), mock::hang()];
    let mut body = under(&layer(), events(steps)).await.into_body();
    let frames = read(&mut body, seconds(33)).await;
    let times: Vec<_> = frames[1..].iter().map(|(time, _)| *time).collect();
    assert_eq!(times, [8, 16, 24, 32]);
    assert!(frames[1..].iter().all(|(_, text)| text == COMMENT));
}

#[tokio::test(start_paused = true)]
async fn the_silence_is_never_longer_than_the_interval_and_hardly_shorter() {
    // Frames at every phase of the timer.
    for millis in (0..8_000).step_by(250) {
        let mut steps = vec![mock::data("data: 1\n\n"), mock::pending()];
        for _ in 0..5 {
            steps.push(mock::sleep(Duration::from_millis(1_100)));
            steps.push(mock::data("data: 2\n\n"));
        }
        steps.push(mock::sleep(Duration::from_millis(millis + 1)));
        steps.push(mock::data("data: 3\n\n"));
        steps.push(mock::hang());
        let mut body = under(&layer(), events(steps)).await.into_body();
        let (mut last, mut beats) = (Instant::now(), 0);
        while beats < 3 {
            let frame = body.frame().await.unwrap().unwrap();
            let silence = last.elapsed();
            last = Instant::now();
            if frame.data_ref().unwrap() == COMMENT {
                beats += 1;
                assert!(silence >= seconds(7), "{silence:?} at {millis}");
            }
            // tokio's timer counts milliseconds.
            assert!(
                silence <= Duration::from_millis(8_002),
                "{silence:?} at {millis}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_gives_frames_has_none() {
    let mut steps = Vec::new();
    for _ in 0..20 {
        steps.push(mock::data("data: 1\n\n"));
        steps.push(mock::sleep(Duration::from_millis(5_900)));
    }
    let all = sent(&layer(), steps).await;
    assert_eq!(all, "data: 1\n\n".repeat(11));
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_before_the_first_bytes_unless_asked() {
    let steps = || {
        [
            mock::sleep(seconds(20)),
            mock::data("data: 1\n\n"),
            mock::sleep(seconds(9)),
        ]
    };
    let without = sent(&layer(), steps()).await;
    assert_eq!(without, format!("data: 1\n\n{COMMENT}"));
    let with = sent(&layer().before_first(true), steps()).await;
    assert_eq!(with, format!("{COMMENT}{COMMENT}data: 1\n\n{COMMENT}"));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_sent_more_than_one_for_the_time_that_nobody_polled() {
    let steps = [mock::data("data: 1\n\n"), mock::hang()];
    let mut body = under(&layer(), events(steps)).await.into_body();
    assert!(body.frame().await.is_some());
    assert!(body.frame().now_or_never().is_none());
    // The client is slow, so the server does not poll.
    tokio::time::sleep(seconds(1_000)).await;
    let frames = read(&mut body, seconds(17)).await;
    let times: Vec<_> = frames.iter().map(|(at, _)| *at).collect();
    assert!(matches!(times[..], [0, 7..=8, 15..=16]), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_was_not_asked_for_in_time_comes_first_and_counts() {
    let steps = [
        mock::data("data: 1\n\n"),
        mock::sleep(seconds(1)),
        mock::data("data: 2\n\n"),
        mock::hang(),
    ];
    let mut body = under(&layer(), events(steps)).await.into_body();
    assert!(body.frame().await.is_some());
    assert!(body.frame().now_or_never().is_none());
    tokio::time::sleep(seconds(1_000)).await;
    let frames = read(&mut body, seconds(9)).await;
    assert_eq!(frames[0].1, "data: 2\n\n");
    assert!((6..=8).contains(&frames[1].0), "{frames:?}");
    assert_eq!(frames.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_after_the_end() {
    for end in [mock::trailer("x-sum", "7"), mock::error("disk gone")] {
        let steps = [mock::data("data: 1\n\n"), end];
        let mut body = under(&layer(), events(steps)).await.into_body();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        let _ = body.frame().await.unwrap();
        let next = timeout(seconds(60), body.frame()).await;
        assert!(next.unwrap().is_none());
    }
    let mut body = under(&layer(), events([mock::data("data: 1\n\n")]))
        .await
        .into_body();
    assert_eq!(read(&mut body, seconds(60)).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_heartbeats_of_a_handler_are_frames_like_others() {
    let mut steps = vec![mock::data("data: 1\n\n")];
    for _ in 0..9 {
        steps.push(mock::sleep(seconds(5)));
        steps.push(mock::data(":\n\n"));
    }
    let all = sent(&layer(), steps).await;
    assert_eq!(all, format!("data: 1\n\n{}", ":\n\n".repeat(9)));
}

#[tokio::test(start_paused = true)]
async fn they_are_counted_apart_from_chunks() {
    let steps = [
        mock::data("data: 1\n\nda"),
        mock::data(""),
        mock::data("ta: 2\n\n"),
        mock::hang(),
    ];
    let mut request = Request::new(());
    let exchange = Exchange::of(request.extensions_mut());
    let mut body = asked(&layer(), request, events(steps)).await.into_body();
    read(&mut body, seconds(17)).await;
    assert_eq!((exchange.chunks(), exchange.heartbeats()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_handler_chooses_for_its_response() {
    let mut response = events([mock::data("data: 1\n\n"), mock::hang()]);
    response.extensions_mut().insert(Heartbeat::ping());
    let mut body = under(&layer(), response).await.into_body();
    let frames = read(&mut body, seconds(9)).await;
    assert_eq!(frames[1].1, "event: ping\ndata: {\"type\":\"ping\"}\n\n");
    let mut response = events([mock::data("data: 1\n\n"), mock::hang()]);
    response.extensions_mut().insert(Heartbeat::none());
    let mut body = under(&layer(), response).await.into_body();
    assert_eq!(read(&mut body, seconds(60)).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_two_layers_the_inner_one_writes() {
    let steps = [mock::data("data: 1\n\n"), mock::hang()];
    let inner = layer().events(Heartbeat::ping());
    let mut response = Some(events(steps));
    let service = service_fn(move |_: Request<()>| {
        let response = response.take().unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    let service = layer().layer(inner.layer(service));
    let response = service.oneshot(Request::new(())).await.unwrap();
    let mut body = Box::pin(response.into_body());
    body.frame().await.unwrap().unwrap();
    for _ in 0..3 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(frame.starts_with(b"event: ping"), "{frame:?}");
    }
}

#[test]
fn heartbeats_of_every_size() {
    let forms = [
        Heartbeat::comment(),
        Heartbeat::comment_alone(),
        Heartbeat::comment_unless_ids(),
        Heartbeat::ping(),
        Heartbeat::custom("data\n\n"),
    ];
    for form in forms {
        for after_ids in [false, true] {
            let short = form.bytes(after_ids);
            for size in 0..80 {
                let bytes = form.clone().padded(size).bytes(after_ids);
                // A comment line has at least two bytes.
                let lacks_one = short.len() + 1 == size && !short.starts_with(b": ");
                let expected = short.len().max(size - usize::from(lacks_one));
                assert_eq!(bytes.len(), expected, "{form:?} {size}");
                let plain = bytes.iter().filter(|byte| **byte == b'\n').count();
                let lines = short.iter().filter(|byte| **byte == b'\n').count();
                let more = usize::from(bytes.len() > short.len() && !short.starts_with(b": "));
                assert_eq!(plain, lines + more, "{bytes:?}");
            }
        }
    }
    assert!(Heartbeat::none().padded(9).bytes(false).is_empty());
}

#[test]
#[should_panic(expected = "must not have an `id:`")]
fn a_heartbeat_has_no_id() {
    let _ = Heartbeat::custom("event: ping\nid: 7\ndata\n\n");
}

#[test]
#[should_panic(expected = "has to end with a line end")]
fn a_heartbeat_is_whole_lines() {
    let _ = Heartbeat::custom("data: 1");
}

/// A stream with this dialect, which a layer further outside has set for its request.
async fn speaking(dialect: Dialect, steps: impl IntoIterator<Item = Step>) -> Vec<String> {
    let mut request = Request::new(());
    Exchange::of(request.extensions_mut()).set_dialect(dialect);
    let mut body = asked(&layer(), request, events(steps)).await.into_body();
    let frames = read(&mut body, seconds(20)).await;
    frames.into_iter().map(|(_, text)| text).collect()
}

#[tokio::test(start_paused = true)]
async fn the_dialect_chooses() {
    const EVENT: &str = "data: 1\nid: 1\n\n";
    let ping = Heartbeat::ping().bytes(false);
    for (dialect, written) in [
        (Dialect::OPENAI_CHAT, ALONE),
        (Dialect::ANTHROPIC, std::str::from_utf8(&ping).unwrap()),
        (Dialect::GEMINI, COMMENT),
        (Dialect::plain(StreamKind::Sse), ALONE),
        // Of another kind, because the handler has sent another content type.
        (Dialect::OLLAMA, ALONE),
    ] {
        let sent = speaking(dialect, [mock::data(EVENT), mock::hang()]).await;
        assert_eq!(sent, [EVENT, written, written], "{dialect:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_after_the_last_record_of_a_dialect() {
    let steps = [
        mock::data("data: {}\n\n"),
        mock::sleep(seconds(9)),
        mock::data("data: [DONE]\n\n"),
        mock::hang(),
    ];
    let sent = speaking(Dialect::OPENAI_CHAT, steps).await;
    assert_eq!(sent, ["data: {}\n\n", COMMENT, "data: [DONE]\n\n"]);
}

/// A runtime whose clock is paused.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

#[test]
fn a_stream_outlives_the_runtime_that_counts_its_time() {
    let layer = layer();
    let idle = || events([mock::data("data: 1\n\n"), mock::hang()]);
    let (first, second) = (runtime(), runtime());
    let mut other = first.block_on(under(&layer, idle())).into_body();
    first.block_on(read(&mut other, seconds(1)));
    let body = second.block_on(under(&layer, idle())).into_body();
    let mut body = Box::pin(body);
    second.block_on(read(&mut body, seconds(1)));
    drop(first);
    let frames = second.block_on(read(&mut body, seconds(20)));
    let times: Vec<_> = frames.iter().map(|(at, _)| *at).collect();
    // The first one is early.
    assert_eq!(times, [0, 8, 16]);
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_the_last_stream_and_starts_again() {
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let layer = layer();
    for _ in 0..3 {
        let mut bodies = Vec::new();
        for _ in 0..3 {
            let steps = [mock::data("data: 1\n\n"), mock::hang()];
            let mut body = under(&layer, events(steps)).await.into_body();
            assert_eq!(read(&mut body, seconds(9)).await.len(), 2);
            bodies.push(body);
        }
        assert_eq!(alive(), 1);
        drop(bodies);
        tokio::time::sleep(seconds(1)).await;
        assert_eq!(alive(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn another_task_that_reads_is_woken() {
    let steps = [mock::data("data: 1\n\n"), mock::hang()];
    let mut body = under(&layer(), events(steps)).await.into_body();
    read(&mut body, seconds(1)).await;
    let read = tokio::spawn(async move { read(&mut body, seconds(20)).await.len() });
    assert_eq!(read.await.unwrap(), 2);
}
