//! Tracks what a connection is doing, and its deadline.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU8, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use tower_stream_core::Cause;

use crate::{
    alarm::{Clock, Deadline, millis},
    pace::Pace,
    settings::{FOR_EVER, Settings},
};

/// Whether a connection serves a request, waits for one, or is in the middle of a request head.
///
/// Only the connection's own task writes the state of an HTTP/1 connection. The requests of an HTTP/2 connection end in
/// separate tasks.
#[derive(Debug)]
pub(crate) struct Activity {
    clock: Clock,
    /// Number of requests being served.
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

    /// How the client takes what the connection writes.
    #[inline]
    pub(crate) fn writes(&self) -> &Pace {
        &self.writes
    }

    fn touch(&self) {
        self.since.store(self.clock.now(), Relaxed);
    }

    /// How long no request has been served; `None` while one is.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let since = self.since.load(Relaxed);
        let idle = self.open() == 0;
        idle.then(|| Duration::from_millis(self.clock.now().saturating_sub(since)))
    }

    /// When the client must have sent more; `None` while a request is served, or without a limit.
    #[inline]
    fn silent_at(&self) -> Option<u64> {
        if self.open() > 0 {
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

    /// A request of an HTTP/1 connection has been read.
    #[inline]
    pub(crate) fn request_begins(&self) {
        self.head.store(head::NONE, Relaxed);
        self.open.store(1, Relaxed);
    }

    /// An HTTP/1 connection waits for its next head.
    fn waits(&self) {
        // The first head is timed from the start of the connection.
        if self.head.load(Relaxed) == head::NONE {
            self.head.store(head::AWAITED, Relaxed);
            self.touch();
        }
        self.open.store(0, Relaxed);
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

/// hyper's timer of an HTTP/1 connection. hyper starts it when it waits for a request head. It never fires: the
/// connection's [`Alarm`](crate::alarm::Alarm) does instead, because it knows whether the head has started.
#[derive(Clone, Debug)]
pub(crate) struct HeadTimer(pub(crate) Arc<Activity>);

// The trait uses std's `Instant`.
#[allow(clippy::disallowed_types)]
impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        self.0.waits();
        // Has no size, so this does not allocate.
        Box::pin(Never)
    }

    fn sleep_until(&self, _: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(FOR_EVER)
    }

    fn now(&self) -> std::time::Instant {
        // The only use of this value is `sleep_until`, which ignores it.
        self.0.clock.began().into_std()
    }
}

struct Never;

impl Future for Never {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sleep for Never {}

/// A stream of an HTTP/2 connection, until this is dropped.
#[derive(Debug)]
pub(crate) struct Open(Arc<Activity>);

impl Drop for Open {
    fn drop(&mut self) {
        // Updated before the count falls, so that no task sees an idle connection with an old time.
        self.0.touch();
        self.0.open.fetch_sub(1, AcqRel);
    }
}
