//! Which cause decides, and which attempt is followed.

use std::sync::OnceLock;

use super::*;
use crate::FaultKind;

fn cause(message: &str) -> Cause {
    Cause::new(FaultKind::Other, message)
}

#[test]
fn the_first_cause_wins() {
    let fault = Exchange::new();
    assert!(fault.record(cause("first")));
    assert!(!fault.record(cause("second")));
    assert_eq!(fault.cause().unwrap().message(), "first");
}

#[test]
fn a_claim_is_made_once_and_seen_by_all() {
    let mut request = Extensions::new();
    let (outer, inner) = (Exchange::of(&mut request), Exchange::of(&mut request));
    assert!(!inner.is_claimed(Claim::ActivatedSpan));
    assert!(outer.claim(Claim::ActivatedSpan));
    assert!(inner.is_claimed(Claim::ActivatedSpan));
    assert!(!inner.claim(Claim::ActivatedSpan));
    assert!(!inner.is_claimed(Claim::RequestSpan));
}

#[test]
fn one_layer_logs_the_cause() {
    let mut request = Extensions::new();
    let (outer, inner) = (Exchange::of(&mut request), Exchange::of(&mut request));
    assert!(inner.cause_to_log().is_none(), "nothing to log yet");
    inner.record(cause("x"));
    assert_eq!(outer.cause_to_log().unwrap().message(), "x");
    assert!(inner.cause_to_log().is_none());
}

#[test]
fn layers_of_one_request_share_one_cell() {
    let mut request = Extensions::new();
    let outer = Exchange::of(&mut request);
    let inner = Exchange::of(&mut request);
    inner.record(cause("x"));
    assert!(outer.cause().is_some());
}

#[test]
fn a_request_rebuilt_inside_is_joined_on_the_head() {
    let mut outer = Exchange::of(&mut Extensions::new());
    let mut inner = Exchange::of(&mut Extensions::new());
    let mut response = Extensions::new();
    inner.join(&mut response);
    outer.join(&mut response);
    inner.record(cause("inside"));
    assert_eq!(outer.cause().unwrap().message(), "inside");
}

#[test]
fn what_was_known_outside_before_the_head_is_known_inside() {
    let mut outer = Exchange::of(&mut Extensions::new());
    let mut inner = Exchange::of(&mut Extensions::new());
    outer.record(cause("outside"));
    let mut response = Extensions::new();
    inner.join(&mut response);
    outer.join(&mut response);
    assert_eq!(inner.cause().unwrap().message(), "outside");
}

/// A layer outside of a retry, and the request as it comes to the retry.
fn outside() -> (Exchange, Extensions) {
    let mut request = Extensions::new();
    (Exchange::of(&mut request), request)
}

/// The layer inside of the retry, in one attempt.
fn attempt(request: &Extensions) -> (Exchange, Extensions) {
    let mut request = request.clone();
    (Exchange::of(&mut request), request)
}

#[test]
fn an_attempt_that_was_not_sent_on_decides_nothing() {
    let (mut outer, request) = outside();
    let (first, mut first_request) = attempt(&request);
    assert!(Exchange::of(&mut first_request).record(cause("attempt 1")));
    let (mut second, _) = attempt(&request);
    assert!(outer.cause().is_none(), "while the second is under way");
    assert!(second.cause().is_none());
    let mut response = Extensions::new();
    second.join(&mut response);
    outer.join(&mut response);
    assert!(outer.cause().is_none());
    assert_eq!(first.cause().unwrap().message(), "attempt 1");
    second.record(cause("attempt 2"));
    assert_eq!(outer.cause().unwrap().message(), "attempt 2");
}

#[test]
fn the_attempt_whose_response_is_sent_on_decides() {
    let (mut outer, request) = outside();
    let (mut first, _) = attempt(&request);
    let mut response = Extensions::new();
    first.join(&mut response);
    // A hedged request, whose response is not awaited.
    let (second, _) = attempt(&request);
    second.record(cause("attempt 2"));
    outer.join(&mut response);
    let (third, _) = attempt(&request);
    third.record(cause("attempt 3"));
    assert!(outer.cause().is_none());
    first.record(cause("attempt 1"));
    assert_eq!(outer.cause().unwrap().message(), "attempt 1");
}

#[test]
fn what_a_layer_outside_of_the_retry_recorded_holds_for_each_attempt() {
    let (outer, request) = outside();
    let (first, _) = attempt(&request);
    outer.record(cause("outside"));
    let (second, _) = attempt(&request);
    for attempt in [&first, &second] {
        assert_eq!(attempt.cause().unwrap().message(), "outside");
    }
}

#[test]
fn a_cause_from_outside_comes_to_an_attempt_that_is_under_way() {
    let (outer, request) = outside();
    let (first, _) = attempt(&request);
    first.record(cause("attempt 1"));
    let (second, _) = attempt(&request);
    assert!(outer.record(cause("outside")));
    assert_eq!(second.cause().unwrap().message(), "outside");
    assert_eq!(first.cause().unwrap().message(), "attempt 1");
}

struct NoDrain;

impl DrainHandle for NoDrain {
    fn hold(self: Arc<Self>) -> Box<dyn DrainHold> {
        Box::new(Self)
    }
}

impl DrainHold for NoDrain {
    fn deadline(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

#[test]
fn work_apart_has_the_ids_and_the_drain_and_an_end_of_its_own() {
    let (outer, _) = outside();
    assert!(outer.set_drain(Arc::new(NoDrain)));
    outer.set_dialect(Dialect::OPENAI_CHAT);
    assert!(outer.claim(Claim::ChunkNumbers));
    outer.sequence().next();
    let apart = outer.apart();
    assert!(apart.hold_drain().is_some() && apart.claim(Claim::ChunkNumbers));
    assert_eq!(apart.dialect().unwrap().name(), "openai-chat");
    assert_eq!(apart.sequence().last(), outer.sequence().last());
    apart.record(cause("of the work"));
    assert!(outer.cause().is_none());
    outer.record(cause("of the response"));
    assert_eq!(apart.cause().unwrap().message(), "of the work");
}

#[test]
fn the_drain_of_a_layer_outside_of_the_retry_is_that_of_each_attempt() {
    let drain = || Arc::new(NoDrain) as Arc<dyn DrainHandle>;
    let (outer, request) = outside();
    assert!(outer.set_drain(drain()));
    for _ in 0..2 {
        let (attempt, _) = attempt(&request);
        assert!(attempt.drain().is_some() && !attempt.set_drain(drain()));
    }
    let (_, request) = outside();
    for _ in 0..2 {
        let (attempt, _) = attempt(&request);
        assert!(attempt.set_drain(drain()), "counted once an attempt");
    }
}

#[test]
fn retries_inside_of_a_retry() {
    let (mut outer, request) = outside();
    let (mut middle, inner_request) = attempt(&request);
    for _ in 0..3 {
        attempt(&inner_request).0.record(cause("inner"));
    }
    let (mut last, _) = attempt(&inner_request);
    let mut response = Extensions::new();
    last.join(&mut response);
    middle.join(&mut response);
    assert!(middle.cause().is_none() && outer.cause().is_none());
    middle.record(cause("middle"));
    assert_eq!(last.cause().unwrap().message(), "middle");
    // The outer retry.
    let (mut second, second_request) = attempt(&request);
    assert!(outer.cause().is_none() && second.cause().is_none());
    attempt(&second_request).0.record(cause("inner"));
    let (mut inner, _) = attempt(&second_request);
    // The first attempt of the outer retry continues, but is no longer followed.
    let (late, _) = attempt(&inner_request);
    late.record(cause("late"));
    let mut response = Extensions::new();
    inner.join(&mut response);
    second.join(&mut response);
    outer.join(&mut response);
    assert!(outer.cause().is_none());
    inner.record(cause("the end"));
    assert_eq!(outer.cause().unwrap().message(), "the end");
}

#[test]
fn a_request_that_is_retried_for_hours() {
    let (outer, request) = outside();
    let attempts: Vec<_> = (0..100).map(|_| attempt(&request)).collect();
    let (last, earlier) = attempts.split_last().unwrap();
    for (fault, _) in earlier {
        fault.record(cause("earlier"));
    }
    assert!(outer.cause().is_none());
    last.0.record(cause("last"));
    assert_eq!(outer.cause().unwrap().message(), "last");
    drop(attempts);
    // Dropped in a loop. If each cell dropped the next one, the stack would overflow.
    let mut cell = Arc::new(Cell::default());
    for _ in 0..200_000 {
        let mut next = Cell::default();
        next.next = OnceLock::from(Fork { depth: 1, cell });
        cell = Arc::new(next);
    }
    drop(cell);
}

#[test]
fn attempts_at_once_have_a_cell_each() {
    let (outer, request) = outside();
    let attempts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| attempt(&request).0))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.collect()
    });
    for attempt in &attempts {
        assert!(attempt.record(cause("its own")));
    }
    assert!(outer.cause().is_some(), "it follows one of them");
}

#[test]
fn a_request_without_a_head_is_dropped_whatever_an_attempt_recorded() {
    let (outer, request) = outside();
    let (first, _) = attempt(&request);
    first.record(cause("attempt 1"));
    // The client disconnects while the retry waits.
    assert_eq!(outer.settle_without_head(), StreamEnd::Dropped);
    assert_eq!(
        first.settle_without_head(),
        StreamEnd::Failed(cause("attempt 1"))
    );
}

#[test]
fn a_drain_takes_nothing_from_a_body_that_was_delivered() {
    let drained = || {
        let fault = Exchange::new();
        fault.record(Cause::new(FaultKind::Drain, "going"));
        let bodies = (fault.number_body(), fault.number_body());
        (fault, bodies)
    };
    // Inside of a layer that had more to send.
    let (fault, (inner, outer)) = drained();
    let end = fault.settle(outer, &StreamEnd::Dropped, false);
    assert_eq!(end.error_type(), Some("drain"));
    assert_eq!(fault.settle(inner, &StreamEnd::Complete, true), end);
    // The length was declared outside.
    let (fault, (inner, outer)) = drained();
    for (number, own, delivered) in [
        (outer, StreamEnd::Complete, true),
        (inner, StreamEnd::Dropped, false),
    ] {
        let end = fault.settle(number, &own, delivered);
        assert_eq!(end, StreamEnd::Complete);
    }
    // No other cause is overridden.
    let fault = Exchange::new();
    fault.record(Cause::new(FaultKind::DigestMismatch, "md5"));
    let end = fault.settle(fault.number_body(), &StreamEnd::Complete, true);
    assert_eq!(end.error_type(), Some("digest_mismatch"));
}

#[test]
fn only_an_outer_end_settles_an_inner_one() {
    let fault = Exchange::new();
    let (inner, outer) = (fault.number_body(), fault.number_body());
    // The inner body ended long before the client disconnected.
    assert_eq!(
        fault.settle(inner, &StreamEnd::Complete, false),
        StreamEnd::Complete
    );
    assert_eq!(
        fault.settle(outer, &StreamEnd::Dropped, false),
        StreamEnd::Dropped
    );

    let fault = Exchange::new();
    let (inner, outer) = (fault.number_body(), fault.number_body());
    // Everything was sent, and then dropped from the outside inwards.
    assert_eq!(
        fault.settle(outer, &StreamEnd::Complete, false),
        StreamEnd::Complete
    );
    assert_eq!(
        fault.settle(inner, &StreamEnd::Dropped, false),
        StreamEnd::Complete
    );
}
