//! What the header guard costs a response, beside three of tower-http's `SetResponseHeaderLayer` and the bare service.
//!
//! `cargo bench -p tower-stream-headers`; the last lines are the ratios of this run.
#![allow(missing_docs)]

use std::{convert::Infallible, hint::black_box, pin::pin};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use tower::{
    ServiceExt,
    layer::util::{Identity, Stack},
    service_fn,
};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_bench_support::{CpuTime, Frames, Group, consume};
use tower_stream_headers::StreamHeadersLayer;

const EVENT: &str = "data: {\"n\":1,\"text\":\"some words of a model\"}\n\n";

/// Answers a request and reads the body to its end.
fn serve<S, B>(service: S) -> usize
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let response = service.oneshot(Request::new(())).now_or_never();
    let Some(Ok(response)) = response else {
        panic!("the service answers at once")
    };
    consume(pin!(response.into_body()))
}

fn set(name: &'static str, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    let name = HeaderName::from_static(name);
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .configure_from_args();
    let names = [
        "StreamHeaders",
        "off",
        "tower-http SetResponseHeader, three",
    ];
    for (content_type, title) in [
        ("text/event-stream", "a response of events"),
        ("text/plain", "a response that is no stream"),
    ] {
        let mut group = criterion.benchmark_group(title);
        group.throughput(Throughput::Elements(1));
        let handler = service_fn(move |_: Request<()>| async move {
            let response = Response::builder().header("content-type", content_type);
            Ok::<_, Infallible>(response.body(Frames::new(EVENT, 1)).unwrap())
        });
        macro_rules! candidate {
            ($name:expr, $layer:expr) => {
                let service = $layer.layer(handler.clone());
                group.bench_function($name, |b| {
                    b.iter(|| serve(black_box(service.clone())));
                });
            };
        }
        candidate!("bare", Identity::new());
        candidate!(names[0], StreamHeadersLayer::new());
        candidate!(names[1], StreamHeadersLayer::off());
        candidate!(
            names[2],
            Stack::new(
                set("cache-control", "no-cache, no-transform"),
                Stack::new(
                    set("x-accel-buffering", "no"),
                    set("x-content-type-options", "nosniff"),
                ),
            )
        );
        group.finish();
        Group::new(title).print_over("bare", &names, 1, "response");
    }
    criterion.final_summary();
}
