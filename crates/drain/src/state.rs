//! The states of a drain.

use std::fmt;

/// Where a [`Drain`](crate::Drain) stands. It only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Serving as ever.
    Active,
    /// On the way down.
    Draining(Phase),
    /// Over: everything ended, or the deadline cut what was left.
    Dead,
}

/// The two parts of draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The word spreads: readiness answers 503, every HTTP/1 response closes its connection, requests are served.
    Advertise,
    /// What is in flight may end; requests that still arrive are refused.
    Close,
}

impl State {
    /// Whether a drain was started: in [`State::Draining`] and in [`State::Dead`].
    #[must_use]
    pub fn is_draining(self) -> bool {
        self != Self::Active
    }

    /// Whether requests that arrive now are refused: from [`Phase::Close`] on.
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
