//! The opt-in wait for more frames.

use std::time::Duration;

use tokio::time::Instant;

use super::*;

fn layer() -> CoalesceLayer {
    CoalesceLayer::new().linger(Duration::from_millis(50))
}

fn wait(millis: u64) -> Step {
    mock::sleep(Duration::from_millis(millis))
}

/// The frames, each with its millisecond.
async fn timed(steps: impl IntoIterator<Item = Step>) -> Vec<(u64, String)> {
    let start = Instant::now();
    let mut body = under(layer(), MockBody::new(steps)).await;
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        let text = match frame {
            Ok(frame) => String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap(),
            Err(error) => format!("!{error}"),
        };
        frames.push((start.elapsed().as_millis() as u64, text));
    }
    frames
}

fn about(frames: &[(u64, String)], expected: &[(u64, &str)]) {
    assert_eq!(frames.len(), expected.len(), "{frames:?}");
    for ((at, text), (when, what)) in frames.iter().zip(expected) {
        assert_eq!(text, what);
        // tokio's timer counts milliseconds
        assert!((*when..=when + 2).contains(at), "{frames:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_trickles_is_joined_and_waits_no_longer_than_that() {
    let mut steps = Vec::new();
    for letter in ["a", "b", "c", "d", "e", "f", "g"] {
        steps.push(mock::data(letter));
        steps.push(wait(20));
    }
    // The time counts from the first held frame.
    about(
        &timed(steps).await,
        &[(50, "abc"), (110, "def"), (140, "g")],
    );
}

#[tokio::test(start_paused = true)]
async fn an_end_does_not_wait() {
    let steps = [mock::data("a"), wait(20), mock::data("b")];
    about(&timed(steps).await, &[(20, "ab")]);
    let steps = [mock::data("a"), wait(20), mock::error("gone")];
    about(&timed(steps).await, &[(20, "a"), (20, "!gone")]);
    let large = "x".repeat(5000);
    let steps = [
        mock::data("a"),
        wait(20),
        mock::data(large.clone()),
        wait(90),
    ];
    about(&timed(steps).await, &[(20, "a"), (20, &large)]);
}

#[tokio::test(start_paused = true)]
async fn a_full_frame_does_not_wait() {
    let steps = (0..4).map(|_| mock::data("x".repeat(4096)));
    let steps = steps.chain([mock::data("y"), wait(500)]);
    let full = "x".repeat(4 * 4096);
    about(&timed(steps).await, &[(0, &full), (50, "y")]);
}

#[tokio::test(start_paused = true)]
async fn held_frames_are_not_the_end() {
    let mut body = under(
        layer(),
        MockBody::new([mock::data("a"), wait(9)]).tells_end(),
    )
    .await;
    let polled = futures_util::FutureExt::now_or_never(body.frame());
    assert!(polled.is_none());
    assert!(!body.is_end_stream());
    assert_eq!(body.size_hint().lower(), 1);
    assert_eq!(read(&mut body).await, ["a"]);
}
