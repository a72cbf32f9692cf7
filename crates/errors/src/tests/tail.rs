//! Failures after the head.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Frame, SizeHint};
use tokio::time::{Duration, Instant};
use tower_stream_core::{Cause, Dialect, FaultKind, mock};

use super::*;
use crate::{AfterTail, Failure, Tail, WriteError};

fn layer() -> ErrorWriterLayer {
    ErrorWriterLayer::new()
}

#[tokio::test]
async fn each_kind_ends_in_its_own_format() {
    let told = told("panic", 500);
    for (content_type, record, tail) in [
        (
            SSE,
            "data: 1\n\n",
            format!("event: error\ndata: {told}\n\n"),
        ),
        (LINES, "{\"n\":1}\n", format!("{told}\n")),
        (
            "application/json-seq",
            "\x1e{\"n\":1}\n",
            format!("\x1e{told}\n"),
        ),
    ] {
        let steps = [mock::data(record), mock::pending(), mock::panic("secret")];
        let seen = send(&layer(), get(), answer(content_type, steps)).await;
        assert_eq!(seen.status, 200);
        assert_eq!(seen.frames, [record, &tail]);
        assert!(seen.error.is_none());
    }
}

#[tokio::test]
async fn grpc_ends_with_a_status() {
    for (kind, status) in [
        (FaultKind::Panic, "13"),
        (FaultKind::Drain, "14"),
        (FaultKind::Timeout, "4"),
        (FaultKind::DigestMismatch, "15"),
    ] {
        let steps = || {
            let error = Cause::new(kind, "secret");
            [
                mock::data("\0\0\0\0\x01a"),
                mock::pending(),
                mock::error(error),
            ]
        };
        let seen = send(&layer(), get(), answer("application/grpc", steps())).await;
        let trailers = seen.trailers.unwrap();
        assert_eq!(trailers["grpc-status"], status);
        assert!(trailers.contains_key("grpc-message"));

        let seen = send(&layer(), get(), answer("application/grpc-web", steps())).await;
        let tail = &seen.frames[1];
        assert_eq!(
            &tail.as_bytes()[..4],
            "\u{fffd}\0\0\0"
                .as_bytes()
                .get(..4)
                .unwrap_or_default()
                .to_vec()
                .as_slice()
        );
        assert!(
            tail.contains(&format!("grpc-status:{status}\r\n")),
            "{tail:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_grpc_message_is_followed_by_nothing() {
    for content_type in ["application/grpc", "application/grpc-web"] {
        let steps = [
            mock::data("\0\0\0\0\x02a"),
            mock::pending(),
            mock::panic("x"),
        ];
        let seen = send(&layer(), get(), answer(content_type, steps)).await;
        assert_eq!((seen.frames.len(), seen.error.is_some()), (1, true));
        assert!(seen.trailers.is_none(), "{content_type}");
    }
}

#[tokio::test(start_paused = true)]
async fn over_http_1_trailers_would_be_lost_so_it_is_an_abort() {
    let mut request = get();
    *request.version_mut() = http::Version::HTTP_11;
    let steps = [mock::pending(), mock::panic("x")];
    let seen = send(&layer(), request, answer("application/grpc", steps)).await;
    assert!(seen.error.is_some() && seen.trailers.is_none());
}

#[tokio::test(start_paused = true)]
async fn where_nothing_may_be_written_the_body_aborts() {
    let failing = || {
        [
            mock::data("data: 1\n\n"),
            mock::pending(),
            mock::error("the secret"),
        ]
    };
    let with = |name: &'static str, value: &str| {
        let mut response = answer(SSE, failing());
        response.headers_mut().insert(name, value.parse().unwrap());
        response
    };
    let mut range = answer(SSE, failing());
    *range.status_mut() = StatusCode::PARTIAL_CONTENT;
    for response in [
        answer(BYTES, failing()),
        answer("application/json", failing()),
        answer(SSE, failing()).map(|body| body.with_size_hint(http_body::SizeHint::with_exact(99))),
        with("content-length", "99"),
        with("content-encoding", "gzip"),
        range,
    ] {
        let case = format!("{response:?}");
        let seen = send(&layer(), get(), response).await;
        assert_eq!(seen.frames, ["data: 1\n\n"], "{case}");
        let error = seen.error.expect(&case);
        let error = error.downcast_ref::<Cause>().unwrap();
        assert_eq!(error.message(), "the secret");
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_waits_for_what_was_given_to_be_flushed() {
    let start = Instant::now();
    let steps = [mock::data("abc"), mock::error("x")];
    let seen = send(&layer(), get(), answer(BYTES, steps)).await;
    assert_eq!(seen.text(), "abc");
    assert_eq!(start.elapsed(), Duration::from_millis(25));
}

#[tokio::test(start_paused = true)]
async fn a_tail_may_be_followed_by_an_abort() {
    let start = Instant::now();
    let settle = Duration::from_millis(40);
    let layer = layer().after_tail(AfterTail::Abort { settle });
    let steps = [mock::data("{}\n"), mock::error("x")];
    let seen = send(&layer, get(), answer(LINES, steps)).await;
    assert_eq!(seen.frames.len(), 2);
    assert!(seen.error.is_some());
    assert_eq!(start.elapsed(), settle);
}

#[tokio::test]
async fn a_clean_end_releases_what_was_held() {
    let steps = || {
        [
            mock::data("data: 1\n\nda"),
            mock::pending(),
            mock::data("ta: 2"),
        ]
    };
    for response in [
        answer(SSE, steps()),
        answer(SSE, steps()).map(MockBody::tells_end),
    ] {
        let seen = send(&layer(), get(), response).await;
        assert_eq!(seen.frames, ["data: 1\n\n", "data: 2"]);
    }
    let telling = answer(SSE, [mock::data("data: 1\n\nda")]).map(MockBody::tells_end);
    let seen = send(&layer(), get(), telling).await;
    assert_eq!(seen.frames, ["data: 1\n\n", "da"]);
    let mut steps = Vec::from(steps());
    steps.push(mock::trailer("x-sum", "1"));
    let seen = send(&layer(), get(), answer(SSE, steps)).await;
    assert_eq!(seen.frames, ["data: 1\n\n", "data: 2"]);
    assert_eq!(seen.trailers.unwrap()["x-sum"], "1");
}

#[tokio::test(start_paused = true)]
async fn half_a_record_over_the_cap_is_sent_and_aborted() {
    let layer = layer().hold_cap(8);
    let steps = [mock::data("data: 0123456789"), mock::error("x")];
    let seen = send(&layer, get(), answer(SSE, steps)).await;
    assert_eq!(seen.frames, ["data: 0123456789"]);
    assert!(seen.error.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_short_body_is_no_success() {
    let short = |steps: Vec<Step>| {
        let mut response = answer(BYTES, steps);
        response
            .headers_mut()
            .insert("content-length", "5".parse().unwrap());
        response
    };
    let seen = send(&layer(), get(), short(vec![mock::data("abc")])).await;
    assert_eq!(seen.text(), "abc");
    let cause = seen.error.unwrap();
    assert_eq!(cause.to_string(), "the body ended after 3 of 5 bytes");
    let telling = short(vec![mock::data("abc")]).map(MockBody::tells_end);
    assert!(send(&layer(), get(), telling).await.error.is_some());
    assert_eq!(send(&layer(), get(), short(vec![])).await.status, 500);
    let telling = short(vec![]).map(MockBody::tells_end);
    assert_eq!(send(&layer(), get(), telling).await.status, 500);
}

/// Knows its size only once it has begun, and then ends before.
struct Learns(bool);

impl Body for Learns {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let first = !std::mem::replace(&mut self.0, true);
        Poll::Ready(first.then(|| Ok(Frame::data("data: 1\n\n".into()))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.0 {
            SizeHint::with_exact(2)
        } else {
            SizeHint::default()
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_size_learnt_in_the_first_poll_is_declared_too() {
    let response = Response::builder().header("content-type", SSE);
    let service = layer().layer(once(response.body(Learns(false)).unwrap()));
    let response = service.oneshot(get()).await.unwrap();
    assert_eq!(response.body().size_hint().exact(), Some(11));
    let error = read(response).await.error.unwrap();
    assert_eq!(error.to_string(), "the body ended after 9 of 11 bytes");
}

#[tokio::test]
async fn a_failure_of_a_chat_is_data_and_never_done() {
    let steps = [mock::data("data: {}\n\n"), mock::panic("secret")];
    let seen = send(&layer(), get(), chat(steps)).await;
    assert_eq!(
        seen.frames[1],
        "data: {\"error\":{\"code\":\"panic\",\"message\":\"the response failed on the server\",\"param\":null,\"request_id\":\"id-1\",\"type\":\"server_error\"}}\n\n"
    );
    assert!(!seen.text().contains("[DONE]"));
}

#[tokio::test]
async fn messages_are_told_when_asked_for() {
    let layer = layer().expose_messages(true);
    let steps = [mock::data("{}\n"), mock::panic("the secret")];
    let seen = send(&layer, get(), answer(LINES, steps)).await;
    assert!(seen.frames[1].contains("the secret"));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_panics_in_its_tail_aborts() {
    struct Bad;
    impl WriteError for Bad {
        fn tail(&self, _: &Failure<'_>) -> Tail {
            panic!("in the writer")
        }
    }
    let steps = [mock::data("{}\n"), mock::error("x")];
    let seen = send(&layer().writer(Bad), get(), answer(LINES, steps)).await;
    assert_eq!((seen.text().as_str(), seen.error.is_some()), ("{}\n", true));
}

#[tokio::test]
async fn trailers_behind_an_unended_record_follow_it() {
    for layer in [layer(), layer().first_poll(false)] {
        let steps = [mock::data("{\"a\":1}"), mock::trailer("x-checksum", "1")];
        let seen = send(&layer, get(), answer(LINES, steps)).await;
        assert_eq!(seen.frames, ["{\"a\":1}"]);
        assert_eq!(seen.trailers.unwrap()["x-checksum"], "1");
        assert!(seen.error.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_tail_of_nothing_is_an_abort() {
    struct Nothing(Tail);
    impl WriteError for Nothing {
        fn tail(&self, _: &Failure<'_>) -> Tail {
            self.0.clone()
        }
    }
    for tail in [Tail::Data(Bytes::new()), Tail::Trailers(HeaderMap::new())] {
        let layer = layer().writer(Nothing(tail));
        let steps = [mock::data("half"), mock::pending(), mock::error("x")];
        let seen = send(&layer, get(), answer(BYTES, steps)).await;
        assert_eq!((seen.text().as_str(), seen.trailers), ("half", None));
        assert!(seen.error.is_some(), "a silent success");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_that_a_layer_inside_chose_is_passed_on() {
    use h2::Reason;
    for reason in [Reason::REFUSED_STREAM, Reason::ENHANCE_YOUR_CALM] {
        for steps in [vec![], vec![mock::data("data: 1\n\n"), mock::pending()]] {
            let given = steps.len();
            let error = std::io::Error::other(h2::Error::from(reason));
            let steps = steps.into_iter().chain([mock::error(error)]);
            let seen = send(&layer(), get(), answer(SSE, steps)).await;
            assert_eq!(
                seen.status, 200,
                "the reset says it, the head is never seen"
            );
            assert_eq!(seen.frames.len(), given.min(1));
            let error = seen.error.unwrap();
            let error = error.downcast_ref::<std::io::Error>().unwrap();
            let error = error.get_ref().unwrap().downcast_ref::<h2::Error>();
            assert_eq!(error.unwrap().reason(), Some(reason));
        }
        // HTTP/1 has no resets, so the response is a 500.
        let mut request = get();
        *request.version_mut() = http::Version::HTTP_11;
        let steps = [mock::error(h2::Error::from(reason))];
        assert_eq!(
            send(&layer(), request, answer(SSE, steps)).await.status,
            500
        );
    }
}

/// A chat in OpenAI's dialect.
fn chat(steps: impl IntoIterator<Item = mock::Step>) -> Response<mock::MockBody> {
    let mut response = answer(SSE, steps);
    response.extensions_mut().insert(Dialect::OPENAI_CHAT);
    response
}

#[tokio::test]
async fn an_end_without_the_last_record_is_told() {
    let token = "data: {}\n\n";
    for first_poll in [true, false] {
        let layer = layer().first_poll(first_poll);
        let seen = send(&layer, get(), chat([mock::data(token)])).await;
        assert_eq!(
            seen.frames[1],
            "data: {\"error\":{\"code\":\"incomplete\",\"message\":\"the response ended before it was complete\",\"param\":null,\"request_id\":\"id-1\",\"type\":\"server_error\"}}\n\n"
        );
        assert!(seen.error.is_none());
    }
    // The body ends before the head is sent.
    let seen = send(&layer(), get(), chat([])).await;
    assert_eq!(seen.status, 500);
    assert_eq!(seen.json()["error"]["code"], "incomplete");
}

#[tokio::test]
async fn nothing_is_written_behind_the_last_record() {
    let whole = "data: {}\n\ndata: [DONE]\n\n";
    for late in [
        mock::error("late"),
        mock::panic("late"),
        mock::data("data: half"),
    ] {
        let seen = send(&layer(), get(), chat([mock::data(whole), late])).await;
        assert!(seen.error.is_none());
        assert!(!seen.text().contains("error"), "{seen:?}");
        assert!(seen.text().starts_with(whole));
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_bytes_abort_behind_the_last_record() {
    let mismatch = Cause::new(FaultKind::DigestMismatch, "md5");
    let done = "data: [DONE]\n\n";
    let seen = send(
        &layer(),
        get(),
        chat([mock::data(done), mock::error(mismatch)]),
    )
    .await;
    assert_eq!((seen.text().as_str(), seen.error.is_some()), (done, true));
}
