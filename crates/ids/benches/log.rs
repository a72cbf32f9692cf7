//! A log line with `request_id` and `sequence_id`, compared with a line of the stock format.
//!
//! `cargo bench -p tower-stream-ids --bench log`
#![allow(missing_docs, clippy::print_stdout)]

use std::io;

use criterion::{Criterion, criterion_group};
use tower_stream_bench_support::Contest;
use tower_stream_ids::{RequestScope, Sequence, log};
use tracing::Dispatch;
use tracing_subscriber::{fmt, layer::SubscriberExt};

fn line() {
    tracing::info!(rows = 3, table = "orders", "exported a part");
}

fn in_dispatch(dispatch: &Dispatch, ids: Option<&RequestScope>) {
    tracing::dispatcher::with_default(dispatch, || match ids {
        Some(ids) => ids.run(line),
        None => line(),
    });
}

struct Subscribers {
    stock_json: Dispatch,
    stock_text: Dispatch,
    json: Dispatch,
    text: Dispatch,
    ids: RequestScope,
}

fn subscribers() -> Subscribers {
    let registry = tracing_subscriber::registry;
    let layer = || fmt::layer().with_ansi(false).with_writer(io::sink);
    Subscribers {
        stock_json: registry().with(layer().json().flatten_event(true)).into(),
        stock_text: registry().with(layer()).into(),
        json: registry()
            .with(layer().json().event_format(log::json()))
            .with(log::RequestLog::new())
            .into(),
        text: registry()
            .with(layer().event_format(log::text()))
            .with(log::RequestLog::new())
            .into(),
        ids: RequestScope::new(
            "7d444840-9dc0-11d1-b245-5ffdce74fad2"
                .parse()
                .expect("a valid id"),
            Sequence::new(),
        ),
    }
}

fn benches(c: &mut Criterion) {
    let s = subscribers();
    let mut group = c.benchmark_group("log");
    group.bench_function("stock json, no ids", |b| {
        b.iter(|| in_dispatch(&s.stock_json, None));
    });
    group.bench_function("json with ids", |b| {
        b.iter(|| in_dispatch(&s.json, Some(&s.ids)));
    });
    group.bench_function("stock text, no ids", |b| {
        b.iter(|| in_dispatch(&s.stock_text, None));
    });
    group.bench_function("text with ids", |b| {
        b.iter(|| in_dispatch(&s.text, Some(&s.ids)));
    });
    group.finish();
}

fn ratios() {
    let s = subscribers();
    let best = Contest::new(2_000)
        .entry(|| in_dispatch(&s.stock_json, None))
        .entry(|| in_dispatch(&s.json, Some(&s.ids)))
        .entry(|| in_dispatch(&s.stock_text, None))
        .entry(|| in_dispatch(&s.text, Some(&s.ids)))
        .seconds();
    println!("\nns a log line, best of interleaved rounds; stock lines carry no ids");
    println!(
        "{:>6} {:>7} {:>7} {:>14}",
        "format", "stock", "ids", "ids / stock"
    );
    for (name, stock, ids) in [("json", 0, 1), ("text", 2, 3)] {
        println!(
            "{name:>6} {:>7.0} {:>7.0} {:>13.2}x",
            best[stock] * 1e9,
            best[ids] * 1e9,
            best[ids] / best[stock]
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
