//! How a body ends.

use std::sync::Arc;

use parking_lot::Mutex;
use tower_stream_core::{Exchange, StreamEnd, wrapper};

use super::*;

fn layer() -> CoalesceLayer {
    CoalesceLayer::new()
}

#[tokio::test]
async fn what_came_before_an_error_or_trailers_is_sent_first() {
    let steps = [mock::data("a"), mock::data("b"), mock::error("disk gone")];
    assert_eq!(sent(layer(), steps).await, ["ab", "!disk gone"]);
    let steps = [
        mock::data("a"),
        mock::data("b"),
        mock::trailer("x-sum", "7"),
    ];
    assert_eq!(sent(layer(), steps).await, ["ab", r#"{"x-sum": "7"}"#]);
    assert_eq!(
        sent(layer(), [mock::error("disk gone")]).await,
        ["!disk gone"]
    );
    assert_eq!(sent(layer(), []).await, [""; 0]);
}

#[tokio::test]
async fn an_end_is_told_as_the_body_tells_it() {
    for tells in [false, true] {
        let body = MockBody::new(["a", "b"].map(mock::data));
        let body = if tells { body.tells_end() } else { body };
        let probe = body.probe();
        let mut body = under(layer(), body).await;
        assert!(!body.is_end_stream());
        body.frame().await.unwrap().unwrap();
        assert_eq!(body.is_end_stream(), tells);
        assert_eq!(probe.polls(), if tells { 2 } else { 3 });
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test]
async fn nothing_is_polled_after_the_declared_length() {
    // A server that declared this length as `Content-Length` would not poll for what follows it.
    let steps = ["a".repeat(4000), "b".repeat(4000)].map(mock::data);
    let steps = steps.into_iter().chain([mock::error("late")]);
    let body = MockBody::new(steps).with_size_hint(SizeHint::with_exact(8000));
    let probe = body.probe();
    let mut body = under(layer(), body).await;
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(frame.len(), 8000);
    assert_eq!(probe.polls(), 2);
}

/// Reports how the response ended.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Vec<StreamEnd>>>);

impl wrapper::Hook for Ends {
    type Stage = Ends;

    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> wrapper::Begin<Ends> {
        wrapper::Begin::Follow(self.clone())
    }
}

impl wrapper::Stage for Ends {
    fn on_end(&mut self, end: &StreamEnd) {
        self.0.lock().push(end.clone());
    }
}

/// Polls the body this often and drops it.
async fn outcomes(steps: impl IntoIterator<Item = Step>, polls: usize) -> [String; 2] {
    let mut body = Some(MockBody::new(steps));
    let service = service_fn(move |_: Request<()>| {
        let response = Response::new(body.take().unwrap());
        async move { Ok::<_, Infallible>(response) }
    });
    let (outside, inside) = (Ends::default(), Ends::default());
    let layers = wrapper::Fused::new()
        .layer(outside.clone())
        .layer(layer())
        .layer(inside.clone());
    let response = Layer::layer(&layers, service)
        .oneshot(Request::new(()))
        .await
        .unwrap();
    let mut body = Box::pin(response.into_body());
    for _ in 0..polls {
        let _ = body.frame().await;
    }
    drop(body);
    [outside, inside].map(|ends| {
        let ends = ends.0.lock();
        assert_eq!(ends.len(), 1, "once");
        ends[0].to_string()
    })
}

#[tokio::test]
async fn both_sides_tell_the_same_end() {
    let end = |steps: Vec<Step>, polls| outcomes(steps, polls);
    let data = || vec![mock::data("a"), mock::data("b")];
    // As without the layer, a body that is dropped before its end was polled counts as dropped.
    assert_eq!(end(data(), 1).await, ["dropped"; 2]);
    assert_eq!(end(data(), 2).await, ["complete"; 2]);
    let mut waits = data();
    waits.push(mock::hang());
    assert_eq!(end(waits, 1).await, ["dropped"; 2]);
    let mut fails = data();
    fails.push(mock::error("disk gone"));
    let [outside, inside] = end(fails, 2).await;
    assert_eq!(outside, inside);
    assert!(outside.contains("disk gone"), "{outside}");
    // The layer has polled the error while it joined the frames, so the end is this error, although the server did not
    // poll for it.
    let mut fails = data();
    fails.push(mock::error("disk gone"));
    let [outside, inside] = end(fails, 1).await;
    assert_eq!(outside, inside);
    assert!(outside.contains("disk gone"), "{outside}");
}
