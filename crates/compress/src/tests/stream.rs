//! What the client can read, and when.

use std::sync::atomic::Ordering;

use http_body::{Body as _, SizeHint};

use super::*;

/// What each frame makes readable, then whether the coding ended, and then the failure or trailers.
async fn read(
    coding: Coding,
    steps: impl IntoIterator<Item = Step>,
) -> (Vec<String>, bool, String) {
    let mut body = encoded(&CompressLayer::new(), coding, events(steps)).await;
    let mut decoder = Decoder::new(coding);
    let (mut texts, mut rest) = (Vec::new(), String::new());
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => texts.push(String::from_utf8(decoder.read(&data)).unwrap()),
            Ok(Err(frame)) => rest = format!("{:?}", frame.into_trailers().unwrap()),
            Err(error) => rest = error.to_string(),
        }
    }
    (texts, decoder.is_whole(), rest)
}

#[tokio::test]
async fn each_record_is_readable_before_the_next_is_made() {
    for coding in codings() {
        let mut steps = Vec::new();
        let sent: Vec<_> = (0..50).map(|n| format!("data: {n} of many\n\n")).collect();
        for event in &sent {
            steps.push(mock::data(event.clone()));
            steps.push(mock::pending());
        }
        let (texts, whole, _) = read(coding, steps).await;
        // The end of the coding is a frame of its own.
        assert_eq!(texts[..50], sent, "{coding}");
        assert!(texts[50..].concat().is_empty() && whole, "{coding}");
    }
}

#[tokio::test]
async fn what_is_ready_is_one_frame() {
    for coding in codings() {
        let steps = ["a", "b", "c"].map(mock::data).into_iter();
        let steps = steps.chain([mock::pending(), mock::pending(), mock::data("d")]);
        let (texts, whole, _) = read(coding, steps).await;
        assert_eq!(texts, ["abc", "d"], "{coding}");
        assert!(whole, "{coding}");
    }
}

#[tokio::test]
async fn a_failure_is_no_end_and_hides_nothing() {
    for coding in codings() {
        let steps = [mock::data("a"), mock::data("b"), mock::error("disk gone")];
        let (texts, whole, error) = read(coding, steps).await;
        assert_eq!(
            (texts.concat().as_str(), error.as_str()),
            ("ab", "disk gone")
        );
        assert!(!whole, "{coding}: a decoder would take it for complete");
        let (texts, whole, error) = read(coding, [mock::error("disk gone")]).await;
        assert_eq!(
            (texts.len(), whole, error.as_str()),
            (0, false, "disk gone")
        );
    }
}

#[tokio::test]
async fn trailers_follow_without_the_digest_of_other_bytes() {
    for coding in codings() {
        let steps = [mock::data("a"), mock::trailer("x-sum", "7")];
        let (texts, whole, trailers) = read(coding, steps).await;
        assert_eq!((texts.concat().as_str(), whole), ("a", true));
        assert_eq!(trailers, r#"{"x-sum": "7"}"#);
        let steps = [mock::data("a"), mock::trailer("content-md5", "x")];
        let (texts, whole, trailers) = read(coding, steps).await;
        assert_eq!(
            (texts.concat().as_str(), whole, trailers.as_str()),
            ("a", true, "")
        );
    }
}

#[tokio::test]
async fn empty_bodies_and_frames() {
    for coding in codings() {
        let (texts, whole, _) = read(coding, []).await;
        assert_eq!((texts.concat().as_str(), whole), ("", true), "{coding}");
        let steps = (0..3000).map(|_| mock::data(""));
        let steps = steps.chain([
            mock::pending(),
            mock::data("a"),
            mock::pending(),
            mock::data(""),
        ]);
        let (texts, whole, _) = read(coding, steps).await;
        assert_eq!((texts.concat().as_str(), whole), ("a", true), "{coding}");
    }
}

#[tokio::test]
async fn random_frames_arrive_as_they_are() {
    let mut random = 1_u32;
    let mut next = |most: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) % most
    };
    for coding in codings() {
        for tells in [false, true] {
            let mut steps = Vec::new();
            let mut all = Vec::new();
            for _ in 0..60 {
                let length = [3, 90, 5000, 200_000][next(4) as usize];
                let data: Vec<u8> = (0..length).map(|_| b'a' + next(20) as u8).collect();
                all.extend_from_slice(&data);
                steps.push(mock::data(data));
                if next(3) == 0 {
                    steps.push(mock::pending());
                }
            }
            let mut response = events([]);
            let body = MockBody::new(steps);
            *response.body_mut() = if tells { body.tells_end() } else { body };
            let probe = response.body().probe();
            let mut body = encoded(&CompressLayer::new(), coding, response).await;
            let (mut decoder, mut got) = (Decoder::new(coding), Vec::new());
            while let Some(frame) = body.frame().await {
                let data = frame.unwrap().into_data().unwrap();
                assert!(data.len() <= 128 * 1024, "{}", data.len());
                got.extend(decoder.read(&data));
            }
            assert!(got == all && decoder.is_whole(), "{coding}");
            assert!(body.is_end_stream() && !probe.polled_after_end());
        }
    }
}

#[tokio::test]
async fn a_body_that_never_waits_is_sent_in_pieces() {
    for coding in codings() {
        // Nothing is as short when it is encoded.
        let steps = (0..200).map(|_| mock::data(vec![b'x'; 16 * 1024]));
        let (texts, whole, _) = read(coding, steps).await;
        assert!(texts.len() >= 50 && whole, "{coding}: {}", texts.len());
    }
}

#[tokio::test]
async fn a_declared_length_is_the_end() {
    for coding in codings() {
        let steps = ["a".repeat(1000), "b".repeat(1000)].map(mock::data);
        let steps = steps.into_iter().chain([mock::error("late")]);
        let mut response = events([]);
        *response.body_mut() = MockBody::new(steps).with_size_hint(SizeHint::with_exact(2000));
        let mut body = encoded(&CompressLayer::new(), coding, response).await;
        assert_eq!(body.size_hint().exact(), None);
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let mut decoder = Decoder::new(coding);
        assert_eq!(decoder.read(&data).len(), 2000);
        assert!(decoder.is_whole() && body.is_end_stream(), "{coding}");
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test]
async fn an_encoder_that_fails_fails_the_body() {
    for coding in codings() {
        for readable in [0, 1] {
            let layer = CompressLayer::new();
            let fails = &layer.switch().shared.fails;
            let steps = [
                mock::data("a"),
                mock::pending(),
                mock::data("b"),
                mock::hang(),
            ];
            let response = events(steps);
            let probe = response.body().probe();
            let mut body = encoded(&layer, coding, response).await;
            let mut decoder = Decoder::new(coding);
            if readable == 1 {
                let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
                assert_eq!(decoder.read(&first), b"a");
            }
            fails.store(true, Ordering::Relaxed);
            let error = body.frame().await.unwrap().unwrap_err();
            assert!(error.to_string().contains("scripted"), "{error}");
            assert!(probe.is_dropped() && !decoder.is_whole(), "{coding}");
            // Nothing after the failure, and no end of the coding.
            assert!(body.frame().await.is_none() && body.is_end_stream());
            drop(body);
            assert_eq!(layer.switch().stats().memory, 0);
        }
    }
}
