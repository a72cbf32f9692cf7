//! Twelve ways to send small frames with hyper over loopback, in plain text and over TLS, side by side: throughput and CPU time of
//! a frame when all frames are ready, and the delay of a frame when they come one by one.
//!
//! `cargo bench -p tower-stream-coalesce --bench strategies [-- ROUNDS]` prints one table. All ratios are to `each frame` in the same
//! round. The server has one thread, whose CPU time is counted, and the client another, which only reads.
#![allow(missing_docs, clippy::print_stdout)]

mod strategies {
    pub(crate) mod bodies;
    pub(crate) mod wire;
}

use std::{sync::Arc, time::Duration};

use strategies::{
    bodies::Strategy,
    wire::{Ask, Measured, Tls, measure},
};

/// Frames of which all are ready.
const READY: Ask = Ask {
    frames: 200_000,
    bytes: 64,
    pace: None,
};
const LARGE: Ask = Ask {
    frames: 20_000,
    bytes: 16 * 1024,
    pace: None,
};
/// Frames that come one by one.
const PACED: Ask = Ask {
    frames: 400,
    bytes: 64,
    pace: Some(Duration::from_millis(2)),
};

/// The rounds of one strategy.
#[derive(Default)]
struct Row {
    ready: Vec<Measured>,
    large: Vec<Measured>,
    paced: Vec<Measured>,
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median, and that of the ratios to the base in the same round.
fn cell(of: &[Measured], base: &[Measured], value: impl Fn(&Measured) -> f64) -> (f64, f64) {
    let ratios = of
        .iter()
        .zip(base)
        .map(|(of, base)| value(of) / value(base));
    (median(of.iter().map(&value)), median(ratios))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn quantile(delays: &[Measured], share: f64) -> f64 {
    let mut all: Vec<u64> = delays.iter().flat_map(|run| run.delays.clone()).collect();
    all.sort_unstable();
    let place = ((all.len() - 1) as f64 * share) as usize;
    all[place] as f64 / 1000.0
}

fn table(title: &str, rows: &[Row]) {
    println!(
        "\n| {title} | 64 B ready, frames/s | CPU a frame | 16 KiB ready, CPU a frame | paced, CPU a frame | delay p50 | p99 |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|");
    let cpu = |run: &Measured| run.cpu.as_nanos() as f64 / f64::from(run.frames);
    for (strategy, row) in Strategy::ALL.iter().zip(rows) {
        let rate = |run: &Measured| f64::from(run.frames) / run.elapsed.as_secs_f64();
        let (speed, faster) = cell(&row.ready, &rows[0].ready, rate);
        let (ready, ready_ratio) = cell(&row.ready, &rows[0].ready, cpu);
        let (large, large_ratio) = cell(&row.large, &rows[0].large, cpu);
        let (paced, paced_ratio) = cell(&row.paced, &rows[0].paced, cpu);
        println!(
            "| {} | {:.0} k ({faster:.2}x) | {ready:.0} ns ({ready_ratio:.2}x) | {large:.0} ns ({large_ratio:.2}x) \
             | {:.1} us ({paced_ratio:.2}x) | {:.0} us | {:.0} us |",
            strategy.name(),
            speed / 1000.0,
            paced / 1000.0,
            quantile(&row.paced, 0.5),
            quantile(&row.paced, 0.99),
        );
    }
}

fn main() {
    // cargo adds `--bench`
    let rounds = std::env::args().find_map(|word| word.parse().ok());
    let rounds: usize = rounds.unwrap_or(5);
    for tls in [None, Some(Arc::new(Tls::new()))] {
        let mut rows: Vec<Row> = Strategy::ALL.iter().map(|_| Row::default()).collect();
        for round in 0..rounds {
            for place in 0..rows.len() {
                let place = (place + round) % rows.len();
                let (strategy, row) = (Strategy::ALL[place], &mut rows[place]);
                row.ready.push(measure(strategy, tls.clone(), READY));
                row.large.push(measure(strategy, tls.clone(), LARGE));
                row.paced.push(measure(strategy, tls.clone(), PACED));
            }
        }
        let title = if tls.is_some() { "TLS" } else { "plain text" };
        table(title, &rows);
    }
}
