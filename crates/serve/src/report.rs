//! How a server ended.

use std::{fmt, time::Duration};

use tower_stream_drain::Stats;

/// How a [`serve`](crate::serve) ended.
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
