//! The stack as one layer: its defaults, its disabled state, and its single type.
#![cfg(feature = "full")]

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body, response::IntoResponse, routing::get};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::compression::CompressionLayer;
use tower_stream::{
    core::mock::{self, MockBody, Step},
    prelude::*,
};

/// An app with one route that streams these steps.
fn app(content_type: &'static str, steps: fn() -> Vec<Step>) -> Router {
    let handler = move || async move {
        (
            [("content-type", content_type)],
            Body::new(MockBody::new(steps())),
        )
            .into_response()
    };
    Router::new().route("/", get(handler))
}

fn two_events() -> Vec<Step> {
    vec![
        mock::data("data: 1\n\n"),
        mock::pending(),
        mock::data("data: 2\n\n"),
    ]
}

fn half_and_panic() -> Vec<Step> {
    vec![
        mock::data("data: 1\n\ndata: "),
        mock::pending(),
        mock::panic("the secret"),
    ]
}

async fn ask(app: Router, request: Request<Body>) -> Response<Body> {
    app.oneshot(request).await.unwrap()
}

fn plain() -> Request<Body> {
    Request::new(Body::empty())
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn the_defaults_give_an_id_and_end_a_panic_well() {
    let app = app("text/event-stream", half_and_panic).layer(StreamStack::new());
    let response = ask(app, plain()).await;
    let id = response.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let text = text(response).await;
    assert!(
        text.starts_with("data: 1\n\nevent: error\ndata: {"),
        "{text}"
    );
    assert!(text.contains(&id) && text.ends_with("\n\n"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_falls_silent_times_out_in_its_slot() {
    let steps = || vec![mock::data("data: 1\n\n"), mock::hang()];
    let stack = StreamStack::new().idle_timeout(IdleTimeoutLayer::new(Duration::from_secs(30)));
    let response = ask(app("text/event-stream", steps).layer(stack), plain()).await;
    let text = text(response).await;
    assert!(text.starts_with("data: 1\n\nevent: error\n"), "{text}");
    assert!(text.contains("timeout"), "{text}");
}

#[tokio::test]
async fn off_means_off() {
    let steps =
        || MockBody::new([mock::data("data: 1\n"), mock::trailer("x-sum", "7")]).tells_end();
    let service = ServiceBuilder::new()
        .layer(StreamStack::off())
        .service(service_fn(move |_: Request<Body>| async move {
            Ok::<_, Infallible>(
                Response::builder()
                    .header("content-length", "8")
                    .body(steps())
                    .unwrap(),
            )
        }));
    let response = service.oneshot(plain()).await.unwrap();
    assert_eq!(response.headers().len(), 1, "{:?}", response.headers());
    let (bare, mut body) = (steps(), response.into_body());
    assert_eq!(body.size_hint().exact(), bare.size_hint().exact());
    assert!(!body.is_end_stream());
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "data: 1\n"
    );
    assert!(!body.is_end_stream());
    assert_eq!(
        body.frame()
            .await
            .unwrap()
            .unwrap()
            .into_trailers()
            .unwrap()["x-sum"],
        "7"
    );
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn every_layer_at_once_with_compression_in_its_slot() {
    let meter = opentelemetry_meter();
    let drain = Drain::builder().build();
    let stack = StreamStack::new()
        .metrics(StreamMetricsLayer::new(&meter))
        .drain(&drain)
        .digest(DigestLayer::md5())
        .sequence(SequenceLayer::new())
        .verify(VerifyDigestLayer::md5())
        .compression(
            CompressionLayer::new()
                .gzip(true)
                .compress_when(|_, _, _: &_, _: &_| true),
        );
    let app = app("text/event-stream", half_and_panic).layer(stack);
    let mut request = plain();
    request
        .headers_mut()
        .insert("accept-encoding", "gzip".parse().unwrap());
    let response = ask(app, request).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(drain.in_flight(), 1);
    let zipped = response.into_body().collect().await.unwrap().to_bytes();
    let text = gunzip(&zipped);
    // With ids, complete events only, and a last record inside of compression.
    assert!(
        text.starts_with("data: 1\nid: 1\n\nevent: error\n"),
        "{text}"
    );
    assert_eq!(drain.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_drain_carries_the_request_id() {
    let drain = Drain::builder()
        .advertise(Duration::from_secs(1))
        .deadline(Duration::from_secs(9))
        .build();
    let app = app("text/event-stream", two_events).layer(StreamStack::new().drain(&drain));
    let held = ask(app.clone(), plain()).await;
    drain.start();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut request = plain();
    request
        .headers_mut()
        .insert("x-request-id", "late-1".parse().unwrap());
    let refused = ask(app, request).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["x-request-id"], "late-1");
    assert_eq!(refused.headers()["connection"], "close");
    assert_eq!(text(held).await, "data: 1\n\ndata: 2\n\n");
}

/// The type is the same, whatever is enabled: otherwise the branches would not compile.
#[test]
fn the_stack_is_one_type() {
    let drain = Drain::builder().build();
    for on in [false, true] {
        let stack = if on {
            StreamStack::new().drain(&drain)
        } else {
            StreamStack::off()
        };
        fn service<S: Service<Request<Body>>>(_: S) {}
        service(stack.layer(app("text/plain", Vec::new)));
    }
}

fn opentelemetry_meter() -> opentelemetry::metrics::Meter {
    opentelemetry::global::meter("test")
}

fn gunzip(bytes: &[u8]) -> String {
    use std::io::Read;
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_string(&mut text)
        .unwrap();
    text
}
