//! What the layers of one request tell each other about its failure.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use http::Extensions;

use crate::{Cause, StreamEnd};

/// One cell a request, in which whoever learns why its stream fails writes the [`Cause`].
///
/// Write it **before** anything is dropped or replaced: an observer inside sees only a dropped body, an observer
/// outside only a clean error record. Both read the cell and report the same end. The first cause wins.
///
/// # How a layer uses it
///
/// In `call`, [`Fault::of`] takes the cell from the request extensions, or makes one there; the layer keeps it, for
/// the request may be taken apart inside. When the head comes back, [`Fault::join`] follows the cell found in the
/// response extensions, if a layer inside had to begin a new one. A retry gives each attempt a fresh cell with
/// [`Fault::fresh`], or the failure of the first attempt would mark the second.
#[derive(Clone, Debug)]
pub struct Fault {
    cell: Arc<Cell>,
    /// made by this layer: it shows the cell to those outside that could not see it in the request
    made_here: bool,
}

#[derive(Debug, Default)]
struct Cell {
    cause: OnceLock<Cause>,
    /// how many bodies of this request are observed; the innermost is number 1
    bodies: AtomicU32,
    /// a layer has taken it upon itself to log the cause
    logged: AtomicBool,
    /// `number of the body << 1 | complete`: the outermost body that has reported, and how it ended without a cause
    settled: AtomicU64,
}

impl Default for Fault {
    fn default() -> Self {
        Self {
            cell: Arc::new(Cell::default()),
            made_here: true,
        }
    }
}

impl Fault {
    /// A cell of its own, in no extensions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The cell of this request, made if there is none yet.
    pub fn of(request: &mut Extensions) -> Self {
        match request.get::<Self>() {
            Some(known) => Self {
                cell: Arc::clone(&known.cell),
                made_here: false,
            },
            None => Self::fresh(request),
        }
    }

    /// Puts a fresh cell in place of the one that the request has: for each attempt of a retry.
    pub fn fresh(request: &mut Extensions) -> Self {
        let fault = Self::new();
        request.insert(fault.clone());
        fault
    }

    /// Follows the cell in the response extensions, if it is another one, and leaves this one there if there is none.
    pub fn join(&mut self, response: &mut Extensions) {
        match response.get::<Self>() {
            Some(inner) if !Arc::ptr_eq(&inner.cell, &self.cell) => {
                if let Some(cause) = self.cause() {
                    inner.record(cause.clone());
                }
                self.cell = Arc::clone(&inner.cell);
                self.made_here = false;
            }
            Some(_) => {}
            None if self.made_here => {
                response.insert(self.clone());
            }
            None => {}
        }
    }

    /// Records why the stream fails. False, and nothing changed, when a cause is known already.
    pub fn record(&self, cause: Cause) -> bool {
        self.cell.cause.set(cause).is_ok()
    }

    /// Why the stream failed, if it did.
    #[must_use]
    pub fn cause(&self) -> Option<&Cause> {
        self.cell.cause.get()
    }

    /// The cause, for the layer that logs it: `Some` once a request, when there is one.
    ///
    /// Ask again in `Drop`: a layer outside may have ended a stream that went well here.
    #[must_use]
    pub fn cause_to_log(&self) -> Option<&Cause> {
        let cause = self.cause()?;
        let logged = self.cell.logged.swap(true, Ordering::Relaxed);
        (!logged).then_some(cause)
    }

    /// Numbers a body that is observed; each next one is outside of those before it.
    pub(crate) fn number_body(&self) -> u32 {
        self.cell.bodies.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The end that body `number` reports when it saw `own`: the cause, an outer body's end, its own.
    /// What is reported here settles it for the bodies inside.
    pub(crate) fn settle(&self, number: u32, own: StreamEnd) -> StreamEnd {
        if let Some(cause) = self.cause() {
            return StreamEnd::of_cause(cause);
        }
        let mine = u64::from(number) << 1 | u64::from(own == StreamEnd::Complete);
        let settled = self.cell.settled.fetch_max(mine, Ordering::AcqRel);
        if settled >> 1 <= u64::from(number) {
            own
        } else if settled & 1 == 1 {
            StreamEnd::Complete
        } else {
            StreamEnd::Dropped
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
        assert!(Fault::fresh(&mut request).record(cause("attempt 2")));
        assert!(Fault::of(&mut request).cause_to_log().is_some());
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

    #[test]
    fn a_fresh_cell_forgets_the_first_attempt() {
        let mut request = Extensions::new();
        let mut outer = Fault::of(&mut request);
        let first = Fault::fresh(&mut request);
        first.record(cause("attempt 1"));
        let mut second = Fault::fresh(&mut request);
        let mut response = Extensions::new();
        second.join(&mut response);
        outer.join(&mut response);
        assert!(outer.cause().is_none());
    }

    #[test]
    fn only_an_outer_end_settles_an_inner_one() {
        let fault = Fault::new();
        let (inner, outer) = (fault.number_body(), fault.number_body());
        // the inner body ended long before the client left the outer one
        assert_eq!(
            fault.settle(inner, StreamEnd::Complete),
            StreamEnd::Complete
        );
        assert_eq!(fault.settle(outer, StreamEnd::Dropped), StreamEnd::Dropped);

        let fault = Fault::new();
        let (inner, outer) = (fault.number_body(), fault.number_body());
        // all was sent, then everything was dropped from the outside in
        assert_eq!(
            fault.settle(outer, StreamEnd::Complete),
            StreamEnd::Complete
        );
        assert_eq!(fault.settle(inner, StreamEnd::Dropped), StreamEnd::Complete);
    }
}
