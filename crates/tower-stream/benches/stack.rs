//! The stack and each single layer, compared with tower-http's layers and the bare handler in one run.
//!
//! `cargo bench -p tower-stream --bench stack` measures with criterion, and ends with tables of interleaved rounds, so
//! that other load on the machine affects all candidates alike. `-- --quick` is shorter, `-- tables` prints only the
//! tables, and any other filter (`'no subscriber/100 x 64 B/our six'`) measures only what it matches. The bench
//! `allocations` counts allocations.
#![allow(missing_docs, clippy::print_stdout)]

mod candidates;

use std::time::Duration;

use candidates::{
    Listener, Shape,
    layers::{BARE, PEER, SIX, candidates},
};
use criterion::{Criterion, Throughput};
use tower_stream_bench_support::Contest;

/// The shape of one round of a candidate.
const FRAMES_A_ROUND: u32 = 3_000;
const CALLS_A_ROUND: u32 = 300;

const SHAPES: [Shape; 6] = [
    Shape {
        count: 1,
        bytes: 64,
    },
    Shape {
        count: 100,
        bytes: 64,
    },
    Shape {
        count: 10_000,
        bytes: 64,
    },
    Shape {
        count: 1,
        bytes: 16 << 10,
    },
    Shape {
        count: 100,
        bytes: 16 << 10,
    },
    Shape {
        count: 10_000,
        bytes: 16 << 10,
    },
];

fn criterion(criterion: &mut Criterion) {
    for listener in Listener::ALL {
        for shape in SHAPES {
            let mut group = criterion.benchmark_group(format!("{listener}/{shape}"));
            group.throughput(Throughput::Elements(shape.count.into()));
            listener.with(|| {
                for mut candidate in candidates(listener, shape) {
                    group.bench_function(candidate.name, |b| b.iter(|| candidate.run()));
                }
            });
            group.finish();
        }
    }
}

/// Nanoseconds per response, for each candidate.
struct Row {
    name: &'static str,
    times: Vec<f64>,
}

/// The best of interleaved rounds, for each shape.
fn contest(listener: Listener) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for shape in SHAPES {
        let calls = (FRAMES_A_ROUND / shape.count).clamp(1, CALLS_A_ROUND) as usize;
        let mut candidates = candidates(listener, shape);
        let names: Vec<_> = candidates.iter().map(|candidate| candidate.name).collect();
        let contest = candidates
            .iter_mut()
            .fold(Contest::new(calls), |contest, candidate| {
                contest.entry(|| candidate.run())
            });
        let seconds = listener.with(|| contest.seconds());
        rows.resize_with(names.len(), || Row {
            name: "",
            times: Vec::new(),
        });
        for ((row, name), seconds) in rows.iter_mut().zip(names).zip(seconds) {
            row.name = name;
            row.times.push(seconds * 1e9);
        }
    }
    rows
}

fn find<'a>(rows: &'a [Row], name: &str) -> &'a Row {
    rows.iter().find(|row| row.name == name).expect("a row")
}

/// The cost of a response above the bare one, per frame.
fn over(row: &Row, bare: &Row, shape: usize) -> f64 {
    (row.times[shape] - bare.times[shape]) / f64::from(SHAPES[shape].count)
}

fn print(listener: Listener, rows: &[Row]) {
    let (bare, peer) = (find(rows, BARE), find(rows, PEER));
    println!("\n{listener}: ns a frame over bare (x of {PEER}); 1 frame is what a request costs");
    print!("{:<38}", "");
    for shape in SHAPES {
        print!("{:>19}", shape.to_string());
    }
    println!();
    for row in rows {
        print!("{:<38}", row.name);
        for (index, shape) in SHAPES.iter().enumerate() {
            let cell = if row.name == BARE {
                format!("({:.1} in all)", row.times[index] / f64::from(shape.count))
            } else {
                let (own, peers) = (over(row, bare, index), over(peer, bare, index));
                format!("{own:.1} ({:.2}x)", own / peers)
            };
            print!("{cell:>19}");
        }
        println!();
    }
}

/// The goals of the stack, with the results of this run.
fn goals(found: &[(Listener, Vec<Row>)]) {
    println!("\nwhat {SIX} cost over bare, of what {PEER} cost");
    for (listener, what, shape, goal) in [
        (Listener::None, "a request", 0, 0.4),
        (Listener::None, "a frame", 2, 0.5),
        (Listener::Unsampled, "a request", 0, 1.0),
        (Listener::Unsampled, "a frame", 2, 1.0),
        (Listener::UnsampledLean, "a frame", 2, 1.0),
    ] {
        let Some((_, rows)) = found.iter().find(|(of, _)| *of == listener) else {
            continue;
        };
        let bare = find(rows, BARE);
        let (ours, peers) = (
            over(find(rows, SIX), bare, shape),
            over(find(rows, PEER), bare, shape),
        );
        let ratio = ours / peers;
        let verdict = if ratio <= goal { "met" } else { "MISSED" };
        println!(
            "  {listener}, {what}: {ours:.0} of {peers:.0} ns, {ratio:.2}x, goal {goal}x {verdict}"
        );
    }
}

fn main() {
    let mut settings = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .sample_size(10)
        .configure_from_args();
    criterion(&mut settings);
    settings.final_summary();
    // `cargo test --benches` runs this without `--bench`: run each routine once, without a table.
    let mut arguments = std::env::args().skip(1);
    if arguments.all(|argument| ["--bench", "--quick", "tables"].contains(&argument.as_str()))
        && std::env::args().any(|argument| argument == "--bench")
    {
        tables();
    }
}

fn tables() {
    let mut found = Vec::new();
    for listener in Listener::ALL {
        let rows = contest(listener);
        print(listener, &rows);
        found.push((listener, rows));
    }
    goals(&found);
}
