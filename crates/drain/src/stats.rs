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
    /// Requests that are over, whatever their end, farewells not among them.
    pub served: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Streams that the drain ended with a farewell, or with an error where their format has none.
    pub farewelled: u64,
    /// Requests that were still in flight when the drain was over: their connections were aborted.
    pub cut: u64,
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
    pub connections_cut: u64,
    /// From the start of the drain to its end.
    pub took: Duration,
}

impl Report {
    /// Whether everything ended by itself or with a farewell: nothing was cut.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.stats.cut == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stats {
            served,
            refused,
            farewelled,
            cut,
            ..
        } = self.stats;
        write!(
            f,
            "drained in {} ms: served {served}, refused {refused}, farewelled {farewelled}, cut {cut} \
             ({} of {} connections aborted)",
            self.took.as_millis(),
            self.connections_cut,
            self.connections
        )
    }
}
