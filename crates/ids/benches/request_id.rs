//! Cost of `RequestIdLayer` per request, compared with tower-http's `SetRequestId` and `PropagateRequestId`.
//!
//! `cargo bench -p tower-stream-ids --bench request_id`
//!
//! Both use the same `uuid` crate, and cargo builds it once: with the feature `fast-rng` of this crate, tower-http's
//! ids come from the fast generator too. `--no-default-features` shows both without it.
#![allow(missing_docs, clippy::print_stdout)]

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group};
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body::Body;
use http_body_util::Full;
use tower::{Service, ServiceBuilder, service_fn};
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_stream_bench_support::Contest;
use tower_stream_ids::{MakeUuidV7, RequestIdLayer, SequenceLayer};

const ID: HeaderName = HeaderName::from_static("x-request-id");

/// An id as a server has it: a shared slice of the read buffer.
fn inbound() -> HeaderValue {
    let read = Bytes::from_owner(*b"7d444840-9dc0-11d1-b245-5ffdce74fad2");
    HeaderValue::from_maybe_shared(read).expect("visible ASCII")
}

/// A request as axum passes it, with extensions.
fn request(id: Option<&HeaderValue>) -> Request<()> {
    let mut request = Request::new(());
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    headers.insert(
        header::ACCEPT,
        HeaderValue::from_static("text/event-stream"),
    );
    if let Some(id) = id {
        headers.insert(ID, id.clone());
    }
    request
        .extensions_mut()
        .insert(SocketAddr::from(([127, 0, 0, 1], 80)));
    request
}

async fn handler<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"hello")));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// One request: the call, the head, the frames up to `is_end_stream`, the drops.
fn serve<S, B>(service: &mut S, request: Request<()>)
where
    S: Service<Request<()>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut cx) else {
        unreachable!("the handler is always ready");
    };
    let mut body = pin!(response.into_body());
    while !body.is_end_stream() {
        let _frame = body.as_mut().poll_frame(&mut cx);
    }
}

macro_rules! services {
    ($bare:ident, $peer:ident, $v4:ident, $v7:ident, $both:ident) => {
        let mut $bare = service_fn(handler);
        let mut $peer = ServiceBuilder::new()
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(PropagateRequestIdLayer::x_request_id())
            .service(service_fn(handler));
        let mut $v4 = ServiceBuilder::new()
            .layer(RequestIdLayer::new())
            .service(service_fn(handler));
        let mut $v7 = ServiceBuilder::new()
            .layer(RequestIdLayer::new().make(MakeUuidV7))
            .service(service_fn(handler));
        let mut $both = ServiceBuilder::new()
            .layer(RequestIdLayer::new())
            .layer(SequenceLayer::new())
            .service(service_fn(handler));
    };
}

fn benches(c: &mut Criterion) {
    services!(bare, peer, v4, v7, both);
    let inbound = inbound();
    for (name, id) in [("inbound", Some(&inbound)), ("generated", None)] {
        let mut group = c.benchmark_group(format!("request_id/{name}"));
        group.bench_function("bare", |b| b.iter(|| serve(&mut bare, request(id))));
        group.bench_function("tower-http", |b| b.iter(|| serve(&mut peer, request(id))));
        group.bench_function("ours", |b| b.iter(|| serve(&mut v4, request(id))));
        group.bench_function("ours, v7", |b| b.iter(|| serve(&mut v7, request(id))));
        group.bench_function("ours, and sequence", |b| {
            b.iter(|| serve(&mut both, request(id)));
        });
        group.finish();
    }
}

fn ratios() {
    println!("\nns a request over the bare service, best of interleaved rounds");
    println!(
        "{:>10} {:>6} {:>11} {:>6} {:>8} {:>14} {:>18}",
        "id", "bare", "tower-http", "ours", "ours, v7", "ours+sequence", "ours / tower-http"
    );
    let inbound = inbound();
    for (name, id) in [("inbound", Some(&inbound)), ("generated", None)] {
        services!(bare, peer, v4, v7, both);
        let best = Contest::new(2_000)
            .entry(|| serve(&mut bare, request(id)))
            .entry(|| serve(&mut peer, request(id)))
            .entry(|| serve(&mut v4, request(id)))
            .entry(|| serve(&mut v7, request(id)))
            .entry(|| serve(&mut both, request(id)))
            .seconds();
        let over = |i: usize| (best[i] - best[0]) * 1e9;
        println!(
            "{name:>10} {:>6.0} {:>11.0} {:>6.0} {:>8.0} {:>14.0} {:>17.2}x",
            best[0] * 1e9,
            over(1),
            over(2),
            over(3),
            over(4),
            over(2) / over(1)
        );
    }
}

criterion_group!(groups, benches);

fn main() {
    // `cargo test --benches` passes `--test`: run each routine once, without a table.
    let measure = std::env::args().any(|arg| arg == "--bench");
    groups();
    Criterion::default().configure_from_args().final_summary();
    if measure {
        ratios();
    }
}
