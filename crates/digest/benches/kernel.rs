//! MD5 kernels in one run: this crate's, `md-5`, `fast-md5` and `openssl speed` (if that command is installed). Then
//! hashing a body and its segments in one pass, compared with two passes. The rounds are interleaved, so that a busy
//! machine slows all of them alike.
//!
//! `cargo bench -p tower-stream-digest --bench kernel`
#![allow(missing_docs, clippy::print_stdout)]

use criterion::{Criterion, Throughput, criterion_group};
use digest::{Digest, Output};
use std::process::Command;
use tower_stream_bench_support::Contest;
use tower_stream_digest::{Algorithm, Md5};

const SIZES: [usize; 6] = [64, 256, 1 << 10, 4 << 10, 64 << 10, 1 << 20];

fn data(size: usize) -> Vec<u8> {
    (0..size)
        .map(|i| (i * 31 + i / 7).to_le_bytes()[0])
        .collect()
}

fn both(data: &[u8]) -> (Output<Md5>, Output<Md5>) {
    let (mut body, mut segment) = (Md5::new(), Md5::new());
    Md5::update_two(&mut body, &mut segment, data);
    (body.finalize(), segment.finalize())
}

fn twice<D: Digest>(data: &[u8]) -> (Output<D>, Output<D>) {
    (D::digest(data), D::digest(data))
}

fn benches(c: &mut Criterion) {
    for size in SIZES {
        let data = data(size);
        let mut group = c.benchmark_group(format!("md5/{size}"));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function("ours", |b| b.iter(|| Md5::digest(&data)));
        group.bench_function("md-5", |b| b.iter(|| md5::Md5::digest(&data)));
        group.bench_function("fast-md5", |b| b.iter(|| fast_md5::digest(&data)));
        group.bench_function("ours, two streams", |b| b.iter(|| both(&data)));
        group.bench_function("md-5, hashed twice", |b| {
            b.iter(|| twice::<md5::Md5>(&data));
        });
        group.finish();
    }
}

/// Bytes per second as counted by `openssl speed`, over the EVP interface that applications use.
fn openssl_speed(size: usize) -> Option<f64> {
    let size = size.to_string();
    let speed = Command::new("openssl")
        .args([
            "speed", "-mr", "-seconds", "1", "-bytes", &size, "-evp", "md5",
        ])
        .output()
        .ok()?;
    let report = String::from_utf8_lossy(&speed.stdout);
    report
        .lines()
        .find_map(|line| line.strip_prefix("+F:"))?
        .rsplit(':')
        .next()?
        .trim()
        .parse()
        .ok()
}

fn ratios() {
    println!(
        "\nGB/s, best of interleaved rounds; openssl is its own `openssl speed` of this moment"
    );
    println!(
        "{:>8} {:>7} {:>7} {:>9} {:>8} {:>11} {:>8}",
        "bytes", "ours", "md-5", "fast-md5", "openssl", "ours / md-5", "SHA-256"
    );
    for size in SIZES {
        let data = data(size);
        let calls = (1 << 18) / size + 1;
        let best = Contest::new(calls)
            .entry(|| Md5::digest(&data))
            .entry(|| md5::Md5::digest(&data))
            .entry(|| fast_md5::digest(&data))
            .entry(|| sha2::Sha256::digest(&data))
            .seconds();
        let gbps = |i: usize| size as f64 / best[i] / 1e9;
        let openssl =
            openssl_speed(size).map_or("absent".to_owned(), |speed| format!("{:.3}", speed / 1e9));
        println!(
            "{size:>8} {:>7.3} {:>7.3} {:>9.3} {openssl:>8} {:>10.2}x {:>8.3}",
            gbps(0),
            gbps(1),
            gbps(2),
            best[1] / best[0],
            gbps(3)
        );
    }

    println!("\nbody and segment digests of the same bytes, GB/s of data");
    println!(
        "{:>8} {:>12} {:>11} {:>11} {:>14}",
        "bytes", "interleaved", "ours twice", "md-5 twice", "than md-5 x2"
    );
    for size in SIZES {
        let data = data(size);
        let best = Contest::new((1 << 18) / size + 1)
            .entry(|| both(&data))
            .entry(|| twice::<Md5>(&data))
            .entry(|| twice::<md5::Md5>(&data))
            .seconds();
        let gbps = |i: usize| size as f64 / best[i] / 1e9;
        println!(
            "{size:>8} {:>12.3} {:>11.3} {:>11.3} {:>13.2}x",
            gbps(0),
            gbps(1),
            gbps(2),
            best[2] / best[0]
        );
    }
}

criterion_group!(kernels, benches);

fn main() {
    // `cargo test --benches` passes `--test`: run each routine once, without a table.
    kernels();
    if std::env::args().any(|arg| arg == "--bench") {
        ratios();
    }
    Criterion::default().configure_from_args().final_summary();
}
