//! Allocations and heap memory of the stack, compared with tower-http's layers: `cargo bench -p tower-stream --bench
//! allocations`.
//!
//! In a bench of its own, because counting makes allocations slower.
#![allow(missing_docs, clippy::print_stdout)]

mod candidates;

use std::alloc::System;

use candidates::{Candidate, Listener, Shape, layers::candidates};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const FRAMES: u32 = 1_000;

/// Allocations of a whole response.
fn count(candidate: &mut Candidate) -> usize {
    candidate.run();
    let region = Region::new(ALLOCATOR);
    candidate.run();
    region.change().allocations
}

/// Bytes on the heap between the head of a response and its first frame.
fn held(candidate: &mut Candidate) -> isize {
    let region = Region::new(ALLOCATOR);
    let mut held = 0;
    candidate.run_with(|| {
        let change = region.change();
        held = change.bytes_allocated as isize - change.bytes_deallocated as isize;
    });
    held
}

fn main() {
    for listener in Listener::ALL {
        println!("\n{listener}");
        println!(
            "{:<38}{:>22}{:>22}{:>22}",
            "", "allocations a frame", "allocations a request", "heap bytes a stream"
        );
        let shape = |count| Shape { count, bytes: 64 };
        let (mut one, mut many) = (
            candidates(listener, shape(1)),
            candidates(listener, shape(FRAMES + 1)),
        );
        listener.with(|| {
            for (one, many) in one.iter_mut().zip(&mut many) {
                let request = count(one);
                let frame = (count(many) as f64 - request as f64) / f64::from(FRAMES);
                println!(
                    "{:<38}{frame:>22.3}{request:>22}{:>22}",
                    one.name,
                    held(many)
                );
            }
        });
    }
}
