//! Throughput of `SequenceLayer` when it adds ids to server-sent events, and its cost when it adds none.
//!
//! `cargo bench -p tower-stream-ids --bench sequence`
#![allow(missing_docs, clippy::print_stdout)]

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group};
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use tower::{Service, ServiceBuilder, service_fn};
use tower_stream_bench_support::{Contest, Frames, consume};
use tower_stream_ids::SequenceLayer;

const FRAMES: usize = 256;

/// A body of `FRAMES` frames with `records` records each.
fn response(content_type: &'static str, record: &str, records: usize) -> Response<Frames> {
    let frame = Bytes::from(record.repeat(records));
    let mut response = Response::new(Frames::new(frame, FRAMES));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn drain<B: Body<Data = Bytes>>(response: Response<B>) {
    consume(pin!(response.into_body()));
}

fn through(layer: SequenceLayer, response: Response<Frames>) {
    let mut response = Some(response);
    let mut service =
        ServiceBuilder::new()
            .layer(layer)
            .service(service_fn(move |_: Request<()>| {
                std::future::ready(Ok::<_, Infallible>(response.take().expect("one call")))
            }));
    let mut cx = Context::from_waker(Waker::noop());
    if let Poll::Ready(Ok(response)) = pin!(service.call(Request::new(()))).poll(&mut cx) {
        drain(response);
    }
}

struct Case {
    name: &'static str,
    content_type: &'static str,
    record: String,
    records: usize,
    layer: SequenceLayer,
}

fn cases() -> Vec<Case> {
    let event = format!("data: {}\n\n", "x".repeat(192));
    let object = format!("{{\"data\":\"{}\"}}\n", "x".repeat(188));
    let case = |name, content_type, record: &str, records, layer| Case {
        name,
        content_type,
        record: record.to_owned(),
        records,
        layer,
    };
    let json = SequenceLayer::new().json_lines(true);
    vec![
        case(
            "sse, 1 event a frame",
            "text/event-stream",
            &event,
            1,
            SequenceLayer::new(),
        ),
        case(
            "sse, 32 events a frame",
            "text/event-stream",
            &event,
            32,
            SequenceLayer::new(),
        ),
        case(
            "lines, 1 object a frame",
            "application/jsonl",
            &object,
            1,
            json,
        ),
        case(
            "lines, 32 objects a frame",
            "application/jsonl",
            &object,
            32,
            json,
        ),
        case("untouched", "text/plain", &event, 1, SequenceLayer::new()),
    ]
}

impl Case {
    fn response(&self) -> Response<Frames> {
        response(self.content_type, &self.record, self.records)
    }

    fn bytes(&self) -> usize {
        self.record.len() * self.records * FRAMES
    }
}

fn benches(c: &mut Criterion) {
    for case in cases() {
        let mut group = c.benchmark_group(format!("sequence/{}", case.name));
        group.throughput(Throughput::Bytes(case.bytes() as u64));
        group.bench_function("bare", |b| b.iter(|| drain(case.response())));
        group.bench_function("ours", |b| b.iter(|| through(case.layer, case.response())));
        group.finish();
    }
}

fn ratios() {
    println!("\nbest of interleaved rounds; the speed is that of the layer alone");
    println!(
        "{:>28} {:>8} {:>12}",
        "200-byte records", "GB/s", "ns a frame"
    );
    for case in cases() {
        let best = Contest::new(20)
            .entry(|| drain(case.response()))
            .entry(|| through(case.layer, case.response()))
            .seconds();
        let over = best[1] - best[0];
        println!(
            "{:>28} {:>8.2} {:>12.1}",
            case.name,
            case.bytes() as f64 / over / 1e9,
            over * 1e9 / FRAMES as f64
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
