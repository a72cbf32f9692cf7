//! What the layers of one request tell each other about its failure.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use http::Extensions;

use crate::{Cause, FaultKind, StreamEnd};

/// One cell a request, in which whoever learns why its stream fails writes the [`Cause`].
///
/// Write it **before** anything is dropped or replaced: an observer inside sees only a dropped body, an observer
/// outside only a clean error record. Both read the cell and report the same end. The first cause wins.
///
/// # How a layer uses it
///
/// In `call`, [`Fault::of`] takes the cell from the request extensions, or makes one there; the layer keeps it, for
/// the request may be taken apart inside. When the head comes back, [`Fault::join`] follows the cell found in the
/// response extensions.
///
/// # Retries, hedges and mirrors
///
/// A layer such as `tower::retry` sends clones of one request, whose extensions share the cell. Nothing needs to be done
/// about it: `Fault::of` counts how deep in the stack its layer stands, and when an attempt comes to a layer as deep as
/// one that an earlier attempt has been at, it gets a cell of its own. The response carries the cell of its attempt, so
/// the layers outside follow the attempt whose response is sent on. Until there is a response they follow the newest
/// attempt. A cause that was recorded in another attempt does not decide their outcome.
#[derive(Clone, Debug)]
pub struct Fault {
    cell: Arc<Cell>,
    /// of the layer that holds this, counted from the outermost, which has 1
    depth: u32,
}

#[derive(Debug, Default)]
struct Cell {
    /// with the depth of the layer that recorded it
    cause: OnceLock<(u32, Cause)>,
    /// the greatest depth of a layer that has taken this cell
    deepest: AtomicU32,
    /// what the layers outside of the fork follow instead of this cell
    next: OnceLock<Fork>,
    /// how many bodies of this request are observed; the innermost is number 1
    bodies: AtomicU32,
    /// a layer has taken it upon itself to log the cause
    logged: AtomicBool,
    /// `number of the body << 2 | how it ended`: the outermost body that has reported
    settled: AtomicU64,
}

/// A later attempt, which began at a layer of this depth.
#[derive(Debug)]
struct Fork {
    depth: u32,
    cell: Arc<Cell>,
}

/// How a body that has reported ended, in [`Cell::settled`].
const DROPPED: u64 = 0;
const COMPLETE: u64 = 1;
const BY_CAUSE: u64 = 2;

impl Cell {
    fn new(depth: u32) -> Self {
        let mut cell = Self::default();
        *cell.deepest.get_mut() = depth;
        cell
    }

    /// The cell of an attempt that begins at a layer of this depth. What the layers outside have recorded holds for it.
    fn fork(&self, depth: u32) -> Arc<Self> {
        let child = Self::new(depth);
        if let Some((by, cause)) = self.cause.get()
            && *by < depth
        {
            let _ = child.cause.set((*by, cause.clone()));
            let logged = self.logged.load(Ordering::Relaxed);
            child.logged.store(logged, Ordering::Relaxed);
        }
        Arc::new(child)
    }
}

impl Drop for Cell {
    /// One after the other: a request that is retried for hours has a long chain of cells.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut cell) = next.and_then(|fork| Arc::into_inner(fork.cell)) {
            next = cell.next.take();
        }
    }
}

impl Default for Fault {
    fn default() -> Self {
        Self {
            cell: Arc::new(Cell::new(1)),
            depth: 1,
        }
    }
}

impl Fault {
    /// A cell of its own, in no extensions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The cell of this request, made if there is none yet, or if an earlier attempt at the request has it.
    pub fn of(request: &mut Extensions) -> Self {
        if let Some(known) = request.get_mut::<Self>() {
            known.descend();
            return known.clone();
        }
        let fault = Self::new();
        request.insert(fault.clone());
        fault
    }

    /// One layer further in.
    fn descend(&mut self) {
        let depth = self.depth + 1;
        loop {
            let cell = self.cell();
            if cell.deepest.fetch_max(depth, Ordering::Relaxed) < depth {
                if !Arc::ptr_eq(cell, &self.cell) {
                    self.cell = Arc::clone(cell);
                }
                break;
            }
            let child = cell.fork(depth);
            let fork = Fork {
                depth,
                cell: Arc::clone(&child),
            };
            // Where two attempts fork at once, the second forks from the first. If the cell was forked further out
            // meanwhile, this attempt belongs to one that is not followed any more.
            let outdated = |fork: &Fork| self.depth >= fork.depth;
            if cell.next.set(fork).is_ok() || cell.next.get().is_some_and(outdated) {
                self.cell = child;
                break;
            }
        }
        self.depth = depth;
    }

    /// The cell of the attempt that this layer is to follow.
    #[inline]
    fn cell(&self) -> &Arc<Cell> {
        let mut cell = &self.cell;
        while let Some(fork) = cell.next.get() {
            if self.depth >= fork.depth {
                break;
            }
            cell = &fork.cell;
        }
        cell
    }

    /// Follows the cell in the response extensions, which is that of the attempt whose response this is, and leaves
    /// this one there if there is none.
    pub fn join(&mut self, response: &mut Extensions) {
        let Some(inner) = response.get::<Self>() else {
            response.insert(self.clone());
            return;
        };
        if !Arc::ptr_eq(inner.cell(), self.cell())
            && let Some((by, cause)) = self.cell().cause.get()
            && *by <= self.depth
        {
            inner.record(cause.clone());
        }
        if !Arc::ptr_eq(&inner.cell, &self.cell) {
            self.cell = Arc::clone(&inner.cell);
        }
        self.depth = inner.depth;
    }

    /// Records why the stream fails. False, and nothing changed, when a cause is known already.
    pub fn record(&self, cause: Cause) -> bool {
        self.cell().cause.set((self.depth, cause)).is_ok()
    }

    /// Why the stream failed, if it did.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.cell().cause.get().map(|(_, cause)| cause)
    }

    /// The cause, for the layer that logs it: `Some` once a request, when there is one.
    ///
    /// Ask again in `Drop`: a layer outside may have ended a stream that went well here.
    #[must_use]
    pub fn cause_to_log(&self) -> Option<&Cause> {
        let cause = self.cause()?;
        let logged = self.cell().logged.swap(true, Ordering::Relaxed);
        (!logged).then_some(cause)
    }

    /// Numbers a body that is observed; each next one is outside of those before it.
    pub(crate) fn number_body(&self) -> u32 {
        self.cell().bodies.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The end of a request that was dropped before its head came: what was recorded further in was recorded by an
    /// attempt whose response was not sent on.
    pub(crate) fn settle_without_head(&self) -> StreamEnd {
        match self.cell().cause.get() {
            Some((by, cause)) if *by <= self.depth => StreamEnd::of_cause(cause),
            _ => StreamEnd::Dropped,
        }
    }

    /// The end that body `number` reports when it saw `own`: the cause, an outer body's end, its own.
    /// What is reported here settles it for the bodies inside.
    ///
    /// `delivered`: it gave all that it declared before any cause was recorded, so a drain that ends it takes nothing away.
    pub(crate) fn settle(&self, number: u32, own: &StreamEnd, delivered: bool) -> StreamEnd {
        let cause = self.cause();
        let own = match cause {
            Some(cause) if !(delivered && cause.kind() == FaultKind::Drain) => BY_CAUSE,
            _ if *own == StreamEnd::Complete => COMPLETE,
            _ => DROPPED,
        };
        let mine = u64::from(number) << 2 | own;
        let settled = self.cell().settled.fetch_max(mine, Ordering::AcqRel);
        let outer = (settled >> 2 > u64::from(number)).then_some(settled & 3);
        match (cause, outer.unwrap_or(own)) {
            (Some(cause), COMPLETE) if cause.kind() == FaultKind::Drain => StreamEnd::Complete,
            (Some(cause), _) => StreamEnd::of_cause(cause),
            (None, COMPLETE) => StreamEnd::Complete,
            (None, _) => StreamEnd::Dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FaultKind;

    fn cause(message: &str) -> Cause {
        Cause::new(FaultKind::Other, message)
    }

    #[test]
    fn the_first_cause_wins() {
        let fault = Fault::new();
        assert!(fault.record(cause("first")));
        assert!(!fault.record(cause("second")));
        assert_eq!(fault.cause().unwrap().message(), "first");
    }

    #[test]
    fn one_layer_logs_the_cause() {
        let mut request = Extensions::new();
        let (outer, inner) = (Fault::of(&mut request), Fault::of(&mut request));
        assert!(inner.cause_to_log().is_none(), "nothing to log yet");
        inner.record(cause("x"));
        assert_eq!(outer.cause_to_log().unwrap().message(), "x");
        assert!(inner.cause_to_log().is_none());
    }

    #[test]
    fn layers_of_one_request_share_one_cell() {
        let mut request = Extensions::new();
        let outer = Fault::of(&mut request);
        let inner = Fault::of(&mut request);
        inner.record(cause("x"));
        assert!(outer.cause().is_some());
    }

    #[test]
    fn a_request_rebuilt_inside_is_joined_on_the_head() {
        let mut outer = Fault::of(&mut Extensions::new());
        let mut inner = Fault::of(&mut Extensions::new());
        let mut response = Extensions::new();
        inner.join(&mut response);
        outer.join(&mut response);
        inner.record(cause("inside"));
        assert_eq!(outer.cause().unwrap().message(), "inside");
    }

    #[test]
    fn what_was_known_outside_before_the_head_is_known_inside() {
        let mut outer = Fault::of(&mut Extensions::new());
        let mut inner = Fault::of(&mut Extensions::new());
        outer.record(cause("outside"));
        let mut response = Extensions::new();
        inner.join(&mut response);
        outer.join(&mut response);
        assert_eq!(inner.cause().unwrap().message(), "outside");
    }

    /// A layer outside of a retry, and the request as it comes to the retry.
    fn outside() -> (Fault, Extensions) {
        let mut request = Extensions::new();
        (Fault::of(&mut request), request)
    }

    /// The layer inside of the retry, in one attempt.
    fn attempt(request: &Extensions) -> (Fault, Extensions) {
        let mut request = request.clone();
        (Fault::of(&mut request), request)
    }

    #[test]
    fn an_attempt_that_was_not_sent_on_decides_nothing() {
        let (mut outer, request) = outside();
        let (first, mut first_request) = attempt(&request);
        assert!(Fault::of(&mut first_request).record(cause("attempt 1")));
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
        // a hedge: its response is not waited for
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
        // the outer retry
        let (mut second, second_request) = attempt(&request);
        assert!(outer.cause().is_none() && second.cause().is_none());
        attempt(&second_request).0.record(cause("inner"));
        let (mut inner, _) = attempt(&second_request);
        // the first attempt of the outer retry goes on all the same, and is not followed
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
        // dropped in a loop: the cells would overflow the stack if each dropped the next
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
        // the client leaves while the retry waits
        assert_eq!(outer.settle_without_head(), StreamEnd::Dropped);
        assert_eq!(
            first.settle_without_head(),
            StreamEnd::Failed(cause("attempt 1"))
        );
    }

    #[test]
    fn a_drain_takes_nothing_from_a_body_that_was_delivered() {
        let drained = || {
            let fault = Fault::new();
            fault.record(Cause::new(FaultKind::Drain, "going"));
            let bodies = (fault.number_body(), fault.number_body());
            (fault, bodies)
        };
        // inside of a layer that had more to give
        let (fault, (inner, outer)) = drained();
        let end = fault.settle(outer, &StreamEnd::Dropped, false);
        assert_eq!(end.error_type(), Some("drain"));
        assert_eq!(fault.settle(inner, &StreamEnd::Complete, true), end);
        // the length was declared outside
        let (fault, (inner, outer)) = drained();
        for (number, own, delivered) in [
            (outer, StreamEnd::Complete, true),
            (inner, StreamEnd::Dropped, false),
        ] {
            let end = fault.settle(number, &own, delivered);
            assert_eq!(end, StreamEnd::Complete);
        }
        // no other cause is overruled
        let fault = Fault::new();
        fault.record(Cause::new(FaultKind::DigestMismatch, "md5"));
        let end = fault.settle(fault.number_body(), &StreamEnd::Complete, true);
        assert_eq!(end.error_type(), Some("digest_mismatch"));
    }

    #[test]
    fn only_an_outer_end_settles_an_inner_one() {
        let fault = Fault::new();
        let (inner, outer) = (fault.number_body(), fault.number_body());
        // the inner body ended long before the client left the outer one
        assert_eq!(
            fault.settle(inner, &StreamEnd::Complete, false),
            StreamEnd::Complete
        );
        assert_eq!(
            fault.settle(outer, &StreamEnd::Dropped, false),
            StreamEnd::Dropped
        );

        let fault = Fault::new();
        let (inner, outer) = (fault.number_body(), fault.number_body());
        // all was sent, then everything was dropped from the outside in
        assert_eq!(
            fault.settle(outer, &StreamEnd::Complete, false),
            StreamEnd::Complete
        );
        assert_eq!(
            fault.settle(inner, &StreamEnd::Dropped, false),
            StreamEnd::Complete
        );
    }
}
