//! The states of a drain.

use std::fmt;

/// The state of a [`Drain`](crate::Drain). It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Serving normally.
    Active,
    /// Shutting down.
    Draining(Phase),
    /// Over: everything has ended, or was aborted at the deadline.
    Dead,
}

/// The two phases of draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Readiness responds 503, every HTTP/1 response closes its connection, and requests are served.
    Advertise,
    /// Requests in flight may end; new requests are refused.
    Close,
}

impl State {
    /// Returns whether the drain has been started: in [`State::Draining`] and in [`State::Dead`].
    #[must_use]
    pub fn is_draining(self) -> bool {
        self != Self::Active
    }

    /// Returns whether new requests are refused: from [`Phase::Close`] on.
    #[must_use]
    pub fn is_refusing(self) -> bool {
        self >= Self::Draining(Phase::Close)
    }

    /// `active`, `advertise`, `close` or `dead`: for labels and status documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining(Phase::Advertise) => "advertise",
            Self::Draining(Phase::Close) => "close",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
