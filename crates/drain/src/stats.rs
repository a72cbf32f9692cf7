//! Figures of a drain.

use crate::State;

/// The figures of a [`Drain`](crate::Drain) at one instant: for metrics, status documents and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Where the drain stands.
    pub state: State,
    /// Requests whose body has not ended yet, and [`DrainToken`](crate::DrainToken)s that are held.
    pub in_flight: u64,
    /// Requests that are over, whatever their end, unless a drain ended them.
    ///
    /// Each request that was counted is in one figure when it is over: here, in `ended_early` or in `aborted`.
    pub served: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Requests that the drain ended in time: with a farewell, with an error where their format has none, or with a
    /// 503 when their handler had not answered.
    pub ended_early: u64,
    /// Requests that were still in flight when the drain was over, farewells that had not left among them: their
    /// connections were aborted.
    pub aborted: u64,
}
