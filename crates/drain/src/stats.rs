//! Figures of a drain.

use std::{fmt, time::Duration};

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

/// How a [`serve`](crate::Drain::serve) ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The drain's figures at its end.
    pub stats: Stats,
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that were aborted, with and without a request on them.
    pub connections_aborted: u64,
    /// From the start of the drain to its end.
    pub took: Duration,
}

impl Report {
    /// Whether everything ended by itself or with a farewell: nothing was aborted.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.stats.aborted == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stats {
            served,
            refused,
            ended_early,
            aborted,
            ..
        } = self.stats;
        write!(
            f,
            "drained in {} ms: served {served}, refused {refused}, ended early {ended_early}, aborted {aborted} \
             ({} of {} connections)",
            self.took.as_millis(),
            self.connections_aborted,
            self.connections
        )
    }
}
