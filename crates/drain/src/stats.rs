//! Figures of a drain.

use crate::State;

/// The figures of a [`Drain`](crate::Drain) at one time: for metrics, status documents and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The state of the drain.
    pub state: State,
    /// Number of requests whose body has not ended, and of [`DrainToken`](crate::DrainToken)s that are held.
    pub in_flight: u64,
    /// Number of requests that are over, however they ended, unless a drain ended them.
    ///
    /// When a counted request is over, it is in exactly one figure: `served`, `ended_early` or `aborted`.
    pub served: u64,
    /// Number of refused requests.
    pub refused: u64,
    /// Number of requests that the drain ended in time: with a last event, with an error if their format has none, or
    /// with a 503 if their handler had not returned a response.
    pub ended_early: u64,
    /// Number of requests that were still in flight when the drain was over, including those whose last event had not
    /// been sent. Their connections were aborted.
    pub aborted: u64,
}
