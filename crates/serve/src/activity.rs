//! Tracks what a connection is doing, and its deadline.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU8, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::Duration,
};

use tower_stream_core::Cause;

use crate::{
    alarm::{Clock, Deadline, millis},
    pace::Pace,
    settings::{FOR_EVER, Settings},
};

/// Whether a connection serves a request, waits for one, or is in the middle of a request head.
///
/// A request may end in another task than that of its connection: an HTTP/2 stream has one of its own, and a handler may
/// keep the body of its request.
#[derive(Debug)]
pub(crate) struct Activity {
    clock: Clock,
    /// Number of requests being served; over HTTP/1, of their parts.
    open: AtomicUsize,
    /// When the connection started to wait for a request, or when the current head started, by the clock.
    since: AtomicU64,
    /// One of the constants of [`head`].
    head: AtomicU8,
    /// In milliseconds, as `idle_timeout`.
    header_timeout: Option<u64>,
    idle_timeout: Option<u64>,
    /// How the client takes what the connection writes.
    writes: Pace,
    /// Whether the kernel discards what it has not sent when the connection ends.
    pub(crate) aborts: AtomicBool,
    /// Whether the server keeps reading after its last response.
    pub(crate) lingers: AtomicBool,
}

/// What a connection has received of its next request head, while it serves no request.
mod head {
    /// The connection waits for its first head, or for the rest of a head.
    pub(super) const BEGUN: u8 = 0;
    /// Nothing.
    pub(super) const NONE: u8 = 1;
    /// Nothing, and [`received`](super::Activity::received) says when that changes. HTTP/1 only.
    pub(super) const AWAITED: u8 = 2;
    /// Some bytes, which are a complete head if the connection has already read them.
    pub(super) const ARRIVES: u8 = 3;
}

impl Activity {
    pub(crate) fn new(settings: &Settings) -> Self {
        let clock = Clock::start();
        Self {
            clock,
            open: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            head: AtomicU8::new(head::BEGUN),
            header_timeout: settings.header_timeout.map(millis),
            idle_timeout: settings.idle_timeout.map(millis),
            writes: Pace::new(clock, settings),
            aborts: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
        }
    }

    /// Bytes arrived from the client.
    #[inline]
    pub(crate) fn received(&self) {
        if self.head.load(Relaxed) == head::AWAITED {
            self.head.store(head::ARRIVES, Relaxed);
        }
    }

    /// The client took so many bytes of what the connection writes.
    #[inline]
    pub(crate) fn took(&self, bytes: usize) {
        if self.writes.takes(bytes) && self.head.load(Relaxed) != head::BEGUN {
            // A connection that is idle otherwise is so from now on.
            self.touch();
        }
    }

    /// How the client takes what the connection writes.
    #[inline]
    pub(crate) fn writes(&self) -> &Pace {
        &self.writes
    }

    fn touch(&self) {
        self.since.store(self.clock.now(), Relaxed);
    }

    /// Whether the client could send a request and read nothing. The end of a response may still wait for it.
    #[inline]
    fn is_idle(&self) -> bool {
        self.open() == 0 && self.writes.waiting() == 0
    }

    /// How long no request has been served; `None` while one is.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let since = self.since.load(Relaxed);
        let idle = self.is_idle() && !self.lingers.load(Relaxed);
        idle.then(|| Duration::from_millis(self.clock.now().saturating_sub(since)))
    }

    /// When the client must have sent more; `None` while a request is served, or without a limit.
    #[inline]
    fn silent_at(&self) -> Option<u64> {
        if !self.is_idle() {
            return None;
        }
        let limit = match self.head.load(Relaxed) {
            head::BEGUN => self.header_timeout,
            head::ARRIVES => self.head_begins(),
            _ => self.idle_timeout,
        };
        Some(self.since.load(Relaxed).saturating_add(limit?))
    }

    /// The connection has read the bytes that arrived, and still waits.
    #[cold]
    fn head_begins(&self) -> Option<u64> {
        self.head.store(head::BEGUN, Relaxed);
        self.touch();
        self.header_timeout
    }

    /// A stream of an HTTP/2 connection has begun.
    pub(crate) fn opens(self: &Arc<Self>) -> Open {
        self.head.store(head::NONE, Relaxed);
        self.open.fetch_add(1, Relaxed);
        Open(Arc::clone(self))
    }

    /// Number of requests being served.
    #[inline]
    pub(crate) fn open(&self) -> usize {
        self.open.load(Acquire)
    }

    /// A request of an HTTP/1 connection has been read. It has one part or two.
    #[inline]
    pub(crate) fn part_begins(&self) {
        self.head.store(head::NONE, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    /// The HTTP/1 connection waits for its next head if this was the last part.
    pub(crate) fn part_ends(&self) {
        self.head.store(head::AWAITED, Relaxed);
        // Updated before the count falls, so that no task sees an idle connection with an old time.
        self.touch();
        self.open.fetch_sub(1, AcqRel);
    }
}

impl Deadline for Activity {
    type Late = Lateness;

    fn clock(&self) -> Clock {
        self.clock
    }

    /// When the client must have sent more, or taken more of what waits for it. Read this after the connection has been
    /// polled, because a head of which it then still waits for the rest begins here.
    #[inline]
    fn deadline(&self) -> Option<u64> {
        match (self.silent_at(), self.writes.deadline()) {
            (Some(silent), Some(stalled)) => Some(silent.min(stalled)),
            (one, other) => one.or(other),
        }
    }

    fn look_again(&self) -> u64 {
        self.clock.now() + self.idle_timeout.unwrap_or_else(|| millis(FOR_EVER))
    }

    fn late(&self) -> Option<Lateness> {
        if let Some(cause) = self.writes.late() {
            return Some(Lateness::Stalled(cause));
        }
        let silent_at = self.silent_at()?;
        (silent_at <= self.clock.now()).then_some(Lateness::Silent)
    }
}

/// What a client did not do in time.
#[derive(Debug)]
pub(crate) enum Lateness {
    /// It sent nothing.
    Silent,
    /// It did not read, for this cause.
    Stalled(Cause),
}

/// A stream of an HTTP/2 connection, until this is dropped.
#[derive(Debug)]
pub(crate) struct Open(Arc<Activity>);

impl Drop for Open {
    fn drop(&mut self) {
        // In this order for the same reason as in `part_ends`.
        self.0.touch();
        self.0.open.fetch_sub(1, AcqRel);
    }
}
