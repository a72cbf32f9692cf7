//! The result of a server.

use std::{fmt, time::Duration};

use tower_stream_drain::Stats;

/// The result of a [`serve`](crate::serve).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The drain's figures at its end.
    pub stats: Stats,
    /// Number of accepted connections.
    pub connections: u64,
    /// Number of aborted connections, with and without a request.
    pub connections_aborted: u64,
    /// Time from the start of the drain to its end.
    pub took: Duration,
}

impl Report {
    /// Returns whether every stream and every connection ended by itself or with a last event, so that none was aborted.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.stats.aborted == 0 && self.connections_aborted == 0
    }

    pub(crate) fn log(&self) {
        let Stats {
            served,
            refused,
            ended_early,
            aborted,
            ..
        } = self.stats;
        tracing::info!(
            took_ms = self.took.as_millis() as u64,
            served,
            refused,
            ended_early,
            aborted,
            connections = self.connections,
            connections_aborted = self.connections_aborted,
            "drained"
        );
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
            "drained in {} ms: served {served}, refused {refused}, ended early {ended_early}, aborted {aborted}; \
             aborted {} of {} connections",
            self.took.as_millis(),
            self.connections_aborted,
            self.connections
        )
    }
}
