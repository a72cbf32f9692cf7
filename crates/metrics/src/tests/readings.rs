//! What other layers count.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::*;
use crate::{DrainReading, DrainState, Readings, SpanReading, names};

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
fn ids_digests_and_spans_are_read_at_each_collection() {
    let recorded = Recorded::new();
    let count = Arc::new(AtomicU64::new(1));
    let read = || {
        let count = Arc::clone(&count);
        move || count.load(Relaxed)
    };
    let (digests, spans) = (read(), read());
    Readings::new(&recorded.meter())
        .request_ids_replaced(read())
        .digests(move || [("verified", digests()), ("mismatch", 0)])
        .spans(move || SpanReading {
            emitted: 10 + spans(),
            exported: 10,
            dropped: spans(),
        });
    for expected in [1.0, 5.0] {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        count.store(expected as u64, Relaxed);
        assert_eq!(recorded.only(names::REQUEST_ID_REPLACED).1.sum, expected);
        let digests: Vec<_> = recorded
            .series(names::DIGEST_COUNT)
            .into_iter()
            .map(|(a, p)| (a, p.sum))
            .collect();
        let outcome = |outcome: &str, count| (format!("digest.outcome={outcome}"), count);
        assert_eq!(
            digests,
            [outcome("mismatch", 0.0), outcome("verified", expected)]
        );
        assert_eq!(recorded.only(names::SPAN_EMITTED).1.sum, 10.0 + expected);
        assert_eq!(recorded.only(names::SPAN_EXPORTED).1.sum, 10.0);
        assert_eq!(recorded.only(names::SPAN_DROPPED).1.sum, expected);
    }
}
