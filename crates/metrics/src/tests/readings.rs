//! What other layers count.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::*;
use crate::{DrainReading, DrainState, Readings, names};

#[test]
fn a_drain_is_in_exactly_one_state() {
    let recorded = Recorded::new();
    let at = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&at);
    Readings::new(&recorded.meter()).drain(move || {
        let at = read.load(Relaxed);
        DrainReading {
            state: if at == 0 {
                DrainState::Active
            } else {
                DrainState::Close
            },
            in_flight: 7 - at,
            refused: at,
        }
    });
    let states = || {
        recorded
            .series(names::DRAIN_STATE)
            .into_iter()
            .map(|(state, point)| (state, point.sum))
            .collect::<Vec<_>>()
    };
    let all = |values: [f64; 4]| {
        ["active", "advertise", "close", "dead"]
            .map(|state| format!("drain.state={state}"))
            .into_iter()
            .zip(values)
            .collect::<Vec<_>>()
    };
    assert_eq!(states(), all([1.0, 0.0, 0.0, 0.0]));
    at.store(3, Relaxed);
    assert_eq!(states(), all([0.0, 0.0, 1.0, 0.0]));
    assert_eq!(recorded.only(names::DRAIN_IN_FLIGHT).1.sum, 4.0);
    assert_eq!(recorded.only(names::DRAIN_REFUSED).1.sum, 3.0);
}

#[test]
fn ids_and_digests_are_read_at_each_collection() {
    let recorded = Recorded::new();
    let count = Arc::new(AtomicU64::new(1));
    let [replaced, verified, sent] = [(); 3].map(|()| Arc::clone(&count));
    Readings::new(&recorded.meter())
        .request_ids_replaced(move || replaced.load(Relaxed))
        .digests(move || [("verified", verified.load(Relaxed)), ("mismatch", 0)])
        .digests_announced(move || [("trailer", sent.load(Relaxed) + 1)]);
    for expected in [1, 5] {
        count.store(expected, Relaxed);
        assert_eq!(recorded.only(names::REQUEST_ID_REPLACED).1.count, expected);
        let digests = recorded.series(names::DIGEST_COUNT).into_iter();
        let digests: Vec<_> = digests
            .map(|(outcome, point)| (outcome, point.count))
            .collect();
        let outcome = |outcome: &str, count| (format!("digest.outcome={outcome}"), count);
        assert_eq!(
            digests,
            [outcome("mismatch", 0), outcome("verified", expected)]
        );
        let (attributes, point) = recorded.only(names::DIGEST_ANNOUNCED);
        assert_eq!(attributes, "digest.placement=trailer");
        assert_eq!(point.count, expected + 1);
    }
}
