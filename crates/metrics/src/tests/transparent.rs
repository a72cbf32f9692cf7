//! The layer does not change responses, whether it is on or off.

use http_body_util::BodyExt;
use tower_stream_core::mock::{data, error, trailer};

use super::*;
use crate::names;

fn layers(recorded: &Recorded) -> [StreamMetricsLayer; 2] {
    [recorded.layer(), StreamMetricsLayer::off()]
}

#[tokio::test]
async fn frames_and_errors_pass() {
    for layer in layers(&Recorded::new()) {
        let steps = [data("a"), data(""), trailer("x-sum", "1")];
        let mut body = body(&layer, mock(steps)).await;
        let mut frame = async || body.frame().await.unwrap().unwrap();
        assert_eq!(frame().await.into_data().unwrap(), "a");
        assert_eq!(frame().await.into_data().unwrap(), "");
        assert_eq!(frame().await.into_trailers().unwrap()["x-sum"], "1");
        assert!(body.frame().await.is_none());

        let mut body = self::body(&layer, mock([error("broken")])).await;
        assert_eq!(
            body.frame().await.unwrap().unwrap_err().to_string(),
            "broken"
        );
    }
}

#[tokio::test]
async fn size_hint_and_is_end_stream_are_those_of_the_body() {
    for layer in layers(&Recorded::new()) {
        let mut body = body(
            &layer,
            mock([data("abc"), data("de")]).tells_end().with_true_size(),
        )
        .await;
        for (left, ended) in [(5, false), (2, false), (0, true)] {
            assert_eq!(body.size_hint().exact(), Some(left));
            assert_eq!(body.is_end_stream(), ended);
            if !ended {
                body.frame().await.unwrap().unwrap();
            }
        }
    }
}

#[tokio::test]
async fn head_and_extensions_pass() {
    let recorded = Recorded::new();
    for layer in layers(&recorded) {
        let service = service_fn(|request: Request<()>| async move {
            let mut response = Response::new(mock([]));
            *response.status_mut() = http::StatusCode::IM_A_TEAPOT;
            response.headers_mut().insert("x-a", "b".parse().unwrap());
            let number: &u32 = request.extensions().get().unwrap();
            response.extensions_mut().insert(number + 1);
            Ok::<_, Infallible>(response)
        });
        let mut request = Request::new(());
        request.extensions_mut().insert(1_u32);
        let mut service = layer.layer(service);
        let response = call(&mut service, request).await.unwrap();
        assert_eq!(response.status(), 418);
        assert_eq!(response.headers()["x-a"], "b");
        assert_eq!(response.extensions().get::<u32>(), Some(&2));
    }
}

#[tokio::test]
async fn off_records_nothing_whatever_is_switched_on() {
    let recorded = Recorded::new();
    let layer = StreamMetricsLayer::off()
        .consumer_hold(true)
        .route(|_, _| None);
    play(&mut body(&layer, mock([data("a")])).await)
        .await
        .unwrap();
    for name in [names::STREAM_ACTIVE, names::STREAM_COUNT, names::BODY_SIZE] {
        assert!(recorded.series(name).is_empty());
    }
}
