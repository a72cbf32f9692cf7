//! Observers outside and inside agree.

use std::sync::Arc;

use parking_lot::Mutex;
use tower_stream_core::{Exchange, Observation, Observe, StreamEnd, mock};

use super::*;

#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Vec<&'static str>>>);

struct Observer(Ends);

impl Observe for Observer {
    fn end(&mut self, end: &StreamEnd) {
        self.0.0.lock().push(end.outcome().as_str());
    }
}

#[tokio::test(start_paused = true)]
async fn observers_outside_and_inside_report_the_same() {
    use tower_stream_core::{FaultKind, StreamError};
    let drain = || mock::error(StreamError::new(FaultKind::Drain, "drain"));
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
            let mut response = Some(answer(content_type, steps));

            let mut request = get();
            let fault = Exchange::of(request.extensions_mut());
            let outer = Observation::new(Observer(ends.clone()), fault);
            let observed = ends.clone();
            let service = service_fn(move |mut request: Request<()>| {
                let fault = Exchange::of(request.extensions_mut());
                let inner = Observation::new(Observer(observed.clone()), fault);
                let response = inner.into_response(request.method(), response.take().unwrap());
                async move { Ok::<_, Infallible>(response) }
            });
            let response = ErrorWriterLayer::new().layer(service);
            let response = response.oneshot(request).await.unwrap();
            read(outer.into_response(&http::Method::GET, response)).await;
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
        Step::Error(error) => match error.downcast_ref::<tower_stream_core::StreamError>() {
            Some(error) => mock::error(error.clone()),
            None => mock::error(error.to_string()),
        },
        other => unreachable!("{other:?} is not used here"),
    }
}

#[tokio::test]
async fn a_client_that_left_is_not_a_failure() {
    let ends = Ends::default();
    let mut request = get();
    let outer = Observation::new(
        Observer(ends.clone()),
        Exchange::of(request.extensions_mut()),
    );
    let response = answer(SSE, [mock::data("data: 1\n\n"), mock::hang()]);
    let service = once(response);
    let response = ErrorWriterLayer::new().layer(service);
    let response = response.oneshot(request).await.unwrap();
    drop(outer.into_response(&http::Method::GET, response));
    assert_eq!(*ends.0.lock(), ["aborted"]);
}
