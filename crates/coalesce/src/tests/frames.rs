//! Which frames are joined.

use proptest::prelude::*;
use tower_stream_core::{Exchange, wrapper};

use super::*;

fn layer() -> CoalesceLayer {
    CoalesceLayer::new()
}

#[tokio::test]
async fn what_is_ready_is_one_frame_and_a_wait_ends_it() {
    let steps = [
        mock::data("a"),
        mock::data("b"),
        mock::pending(),
        mock::data("c"),
        mock::pending(),
        mock::pending(),
        mock::data("d"),
        mock::data("e"),
    ];
    assert_eq!(sent(layer(), steps).await, ["ab", "c", "de"]);
}

#[tokio::test]
async fn a_frame_alone_is_not_copied_and_leaves_at_once() {
    let data = Bytes::from(vec![7; 64]);
    let steps = [mock::data(data.clone()), mock::hang()];
    let mut body = under(layer(), MockBody::new(steps)).await;
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(frame.as_ptr(), data.as_ptr());
}

#[tokio::test]
async fn a_large_frame_passes_uncopied_and_in_its_place() {
    let large = Bytes::from(vec![b'x'; 4097]);
    let steps = ["a", "b"].map(mock::data).into_iter();
    let steps = steps.chain([mock::data(large.clone()), mock::data("c"), mock::data("d")]);
    let mut body = under(layer(), MockBody::new(steps)).await;
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(frame.unwrap().into_data().unwrap());
    }
    assert_eq!(frames.len(), 3);
    assert_eq!((&frames[0][..], &frames[2][..]), (&b"ab"[..], &b"cd"[..]));
    assert_eq!(frames[1].as_ptr(), large.as_ptr());
}

#[tokio::test]
async fn no_frame_is_longer_than_the_bound_and_none_is_cut() {
    let steps = || ["abc", "def", "gh", "ijklmn", "o", "p"].map(mock::data);
    let frames = sent(layer().max_bytes(6), steps()).await;
    assert_eq!(frames, ["abcdef", "gh", "ijklmn", "op"]);
    let frames = sent(layer().max_frames(2), steps()).await;
    assert_eq!(frames, ["abcdef", "ghijklmn", "op"]);
    let small = (0..8).map(|_| mock::data("a"));
    let frames = sent(layer().max_bytes(6), small).await;
    assert_eq!(frames, ["aaaaaa", "aa"]);
    for off in [
        layer().max_bytes(0),
        layer().max_frames(0),
        CoalesceLayer::off(),
    ] {
        assert_eq!(sent(off, steps()).await.len(), 6);
    }
}

#[tokio::test]
async fn empty_frames_do_not_hold_the_poll() {
    let steps = (0..5000).map(|_| mock::data(""));
    assert_eq!(sent(layer(), steps).await.len(), 5);
}

#[tokio::test]
async fn a_short_document_is_left_alone() {
    let body = || MockBody::new(["a", "b"].map(mock::data)).with_true_size();
    assert_eq!(read(&mut under(layer(), body()).await).await, ["a", "b"]);
    let head = Request::head("/").body(()).unwrap();
    let body = MockBody::new(["a", "b"].map(mock::data));
    let mut body = answered(layer(), head, Response::new(body)).await;
    assert_eq!(read(&mut body).await, ["a", "b"]);
}

#[tokio::test]
async fn the_size_counts_what_is_held() {
    let parts = ["a".repeat(3000), "b".repeat(5000), "c".repeat(10)];
    let body = MockBody::new(parts.clone().map(mock::data)).with_true_size();
    let mut body = under(layer(), body).await;
    let mut left: usize = parts.iter().map(String::len).sum();
    assert_eq!(body.size_hint().exact(), Some(left as u64));
    while let Some(frame) = body.frame().await {
        left -= frame.unwrap().into_data().unwrap().len();
        assert_eq!(body.size_hint().exact(), Some(left as u64));
    }
    assert_eq!(left, 0);
}

/// Counts chunks and heartbeats as a layer outside sees them.
#[derive(Clone, Default)]
struct Watch(std::sync::Arc<parts::Seen>);

mod parts {
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    pub(super) struct Seen {
        pub(super) pieces: AtomicUsize,
        pub(super) heartbeats: AtomicUsize,
    }
}

impl wrapper::Hook for Watch {
    type Stage = Watch;

    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> wrapper::Begin<Watch> {
        wrapper::Begin::Follow(self.clone())
    }
}

impl wrapper::Stage for Watch {
    fn on_piece(&mut self, _: &wrapper::Piece) {
        self.0
            .pieces
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn on_heartbeat(&mut self, _: &wrapper::Piece) {
        self.0
            .heartbeats
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Marks each frame that is `beat` as a heartbeat, as the heartbeat layer does.
#[derive(Clone)]
struct Beats;

impl wrapper::Hook for Beats {
    type Stage = Beats;

    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> wrapper::Begin<Beats> {
        wrapper::Begin::Follow(Beats)
    }
}

impl wrapper::Stage for Beats {
    fn on_polled(
        &mut self,
        polled: &mut wrapper::Polled,
        _: &mut impl wrapper::Source,
        cx: &mut wrapper::StageContext<'_, '_>,
    ) {
        if let std::task::Poll::Ready(Some(Ok(piece))) = polled {
            cx.set_heartbeat(piece.data().is_some_and(|data| data == "beat"));
        }
    }
}

#[tokio::test]
async fn a_joined_frame_is_a_heartbeat_if_it_is_nothing_else() {
    let steps = [
        mock::data("beat"),
        mock::data("a"),
        mock::pending(),
        mock::data("beat"),
        mock::data("beat"),
        mock::pending(),
        mock::data("a"),
        mock::data("beat"),
        mock::data("x".repeat(5000)),
        mock::data("beat"),
        mock::pending(),
        mock::data("beat"),
        mock::trailer("x-sum", "7"),
    ];
    let mut body = Some(MockBody::new(steps));
    let service = service_fn(move |_: Request<()>| {
        let response = Response::new(body.take().unwrap());
        async move { Ok::<_, Infallible>(response) }
    });
    let watch = Watch::default();
    let layers = wrapper::Fused::new()
        .layer(watch.clone())
        .layer(layer())
        .layer(Beats);
    let response = Layer::layer(&layers, service)
        .oneshot(Request::new(()))
        .await
        .unwrap();
    let frames = response.into_body().collect().await.unwrap();
    assert_eq!(frames.trailers().unwrap()["x-sum"], "7");
    let seen =
        |count: &std::sync::atomic::AtomicUsize| count.load(std::sync::atomic::Ordering::Relaxed);
    // `beata`, `abeat`, the long one, and the trailers; `beatbeat`, `beat` and `beat`.
    assert_eq!((seen(&watch.0.pieces), seen(&watch.0.heartbeats)), (4, 3));
}

fn script() -> impl Strategy<Value = Vec<Option<usize>>> {
    let length = prop_oneof![0..9usize, 3900..4300usize, Just(9000usize)];
    prop::collection::vec(prop::option::weighted(0.8, length), 0..60)
}

proptest! {
    /// `None` is a wait.
    #[test]
    fn bytes_and_order_stay(script in script(), max in 1..20_000usize, tells in any::<bool>()) {
        let mut all = Vec::new();
        let mut steps = Vec::new();
        let mut cuts = vec![0];
        for step in script {
            steps.push(match step {
                Some(length) => {
                    let data: Vec<u8> = (all.len()..all.len() + length).map(|n| n as u8).collect();
                    all.extend_from_slice(&data);
                    cuts.push(all.len());
                    mock::data(data)
                }
                None => mock::pending(),
            });
        }
        let waits = steps.iter().filter(|step| matches!(step, Step::Pending)).count();
        let frames = steps.len() - waits;
        let body = MockBody::new(steps);
        let body = if tells { body.tells_end() } else { body };
        let probe = body.probe();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut body = under(layer().max_bytes(max), body).await;
            let (mut got, mut count) = (Vec::new(), 0);
            while let Some(frame) = body.frame().await {
                let data = frame.unwrap().into_data().unwrap();
                let whole = cuts.contains(&got.len()) && cuts.contains(&(got.len() + data.len()));
                assert!(whole, "a frame was cut");
                assert!(data.len() <= max.max(9000), "{}", data.len());
                got.extend_from_slice(&data);
                count += 1;
            }
            assert_eq!(got, all);
            assert!(count <= frames);
        });
        assert!(!probe.polled_after_end());
    }
}
