//! Layers outside and inside agree.

use std::sync::Arc;

use parking_lot::Mutex;
use tower_stream_core::{
    StreamEnd, mock,
    wrapper::{Begin, Hook, Stage, Wrapped},
};

use super::*;

#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Vec<&'static str>>>);

impl Hook for Ends {
    type Stage = Self;

    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<Self> {
        Begin::Follow(self.clone())
    }
}

impl Stage for Ends {
    fn on_end(&mut self, end: &StreamEnd) {
        self.0.lock().push(end.outcome().as_str());
    }
}

#[tokio::test(start_paused = true)]
async fn layers_outside_and_inside_report_the_same() {
    use tower_stream_core::{Cause, FaultKind};
    let drain = || mock::error(Cause::new(FaultKind::Drain, "drain"));
    type Steps = Vec<Step>;
    let cases: [(&str, Steps); 8] = [
        ("complete", vec![mock::data("data: 1\n\n")]),
        ("panic", vec![mock::panic("x")]),
        ("panic", vec![mock::data("data: 1\n\n"), mock::panic("x")]),
        (
            "panic",
            vec![mock::data("data: "), mock::pending(), mock::panic("x")],
        ),
        ("error", vec![mock::error("x")]),
        ("error", vec![mock::data("data: 1\n\n"), mock::error("x")]),
        ("aborted", vec![mock::data("data: 1\n\n"), drain()]),
        ("aborted", vec![drain()]),
    ];
    for content_type in [SSE, BYTES] {
        for (outcome, steps) in &cases {
            let ends = Ends::default();
            let case = format!("{content_type} {steps:?}");
            let steps: Steps = steps.iter().map(again).collect();
            let inner = Wrapped::new(once(answer(content_type, steps)), ends.clone());
            let service = Wrapped::new(ErrorWriterLayer::new().layer(inner), ends.clone());
            read(service.oneshot(get()).await.unwrap()).await;
            assert_eq!(*ends.0.lock(), [*outcome; 2], "{case}");
        }
    }
}

/// The same step once more.
fn again(step: &Step) -> Step {
    match step {
        Step::Data(data) => Step::Data(data.clone()),
        Step::Panic(message) => Step::Panic(message),
        Step::Pending => Step::Pending,
        Step::Error(error) => match error.downcast_ref::<tower_stream_core::Cause>() {
            Some(error) => mock::error(error.clone()),
            None => mock::error(error.to_string()),
        },
        other => unreachable!("{other:?} is not used here"),
    }
}

#[tokio::test]
async fn a_client_that_left_is_not_a_failure() {
    let ends = Ends::default();
    let response = answer(SSE, [mock::data("data: 1\n\n"), mock::hang()]);
    let service = Wrapped::new(ErrorWriterLayer::new().layer(once(response)), ends.clone());
    drop(service.oneshot(get()).await.unwrap());
    assert_eq!(*ends.0.lock(), ["aborted"]);
}
