//! Tracks what a connection is doing, and its deadline.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::rt::{Sleep, Timer};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use tower_stream_core::Cause;

use crate::{
    pace::{Pace, millis},
    settings::{FOR_EVER, Settings},
};

/// Whether a connection serves a request, waits for one, or is in the middle of a request head.
///
/// Only the connection's own task writes the state of an HTTP/1 connection. The requests of an HTTP/2 connection end in
/// separate tasks.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    /// Number of requests being served.
    open: AtomicUsize,
    /// When the connection started to wait for a request, or when the current head started, in milliseconds after
    /// `began`.
    since: AtomicU64,
    /// Whether the connection waits for its first head, or for the rest of a head.
    in_head: AtomicBool,
    /// Whether bytes have been received since this was cleared.
    received: AtomicBool,
    /// In milliseconds, as `idle_timeout`.
    header_timeout: Option<u64>,
    idle_timeout: Option<u64>,
    /// How the client takes what the connection writes.
    writes: Pace,
}

impl Activity {
    pub(crate) fn new(settings: &Settings) -> Self {
        let began = Instant::now();
        Self {
            began,
            open: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            in_head: AtomicBool::new(true),
            received: AtomicBool::new(false),
            header_timeout: settings.header_timeout.map(millis),
            idle_timeout: settings.idle_timeout.map(millis),
            writes: Pace::new(began, settings),
        }
    }

    /// Bytes arrived from the client.
    #[inline]
    pub(crate) fn received(&self) {
        self.received.store(true, Ordering::Relaxed);
    }

    /// How the client takes what the connection writes.
    #[inline]
    pub(crate) fn writes(&self) -> &Pace {
        &self.writes
    }

    /// Milliseconds since `began`.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn touch(&self) {
        self.since.store(self.now(), Ordering::Relaxed);
    }

    /// How long no request has been served; `None` while one is.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let idle = self.open.load(Ordering::Acquire) == 0;
        let since = self.since.load(Ordering::Relaxed);
        idle.then(|| Duration::from_millis(self.now().saturating_sub(since)))
    }

    /// When the client must have sent more, in milliseconds after `began`; `None` while a request is served, or without
    /// a limit.
    #[inline]
    fn silent_at(&self) -> Option<u64> {
        if self.open.load(Ordering::Acquire) > 0 {
            return None;
        }
        let limit = match self.in_head.load(Ordering::Relaxed) {
            true => self.header_timeout,
            false => self.idle_timeout,
        };
        Some(self.since.load(Ordering::Relaxed).saturating_add(limit?))
    }

    /// When the client must have sent more, or taken more of what waits for it.
    #[inline]
    fn deadline(&self) -> Option<u64> {
        match (self.silent_at(), self.writes.deadline()) {
            (Some(silent), Some(stalled)) => Some(silent.min(stalled)),
            (one, other) => one.or(other),
        }
    }

    /// What the client did not do in time, if a deadline has passed.
    fn lateness(&self) -> Option<Lateness> {
        if let Some(cause) = self.writes.stalled() {
            return Some(Lateness::Stalled(cause));
        }
        let silent_at = self.silent_at()?;
        (silent_at <= self.now()).then_some(Lateness::Silent)
    }

    /// Not later than any deadline that starts with the end of a request from now on.
    fn look_again(&self) -> u64 {
        self.now() + self.idle_timeout.unwrap_or_else(|| millis(FOR_EVER))
    }

    /// The instant that is so many milliseconds after `began`.
    pub(crate) fn instant(&self, millis_after: u64) -> Instant {
        self.began + Duration::from_millis(millis_after.min(2 * millis(FOR_EVER)))
    }

    /// A stream of an HTTP/2 connection has begun.
    pub(crate) fn opens(self: &Arc<Self>) -> Open {
        self.in_head.store(false, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::AcqRel);
        Open(Arc::clone(self))
    }

    /// Number of requests being served.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// A request of an HTTP/1 connection has been read.
    pub(crate) fn request_begins(&self) {
        self.in_head.store(false, Ordering::Relaxed);
        self.open.store(1, Ordering::Relaxed);
    }

    /// An HTTP/1 connection waits for its next head.
    fn waits(&self) {
        // The first head is timed from the start of the connection.
        if !self.in_head.load(Ordering::Relaxed) {
            self.received.store(false, Ordering::Relaxed);
            self.touch();
        }
        self.open.store(0, Ordering::Release);
    }

    /// An HTTP/1 connection still waits for the rest of its next head.
    fn still_waits(&self) {
        if !self.in_head.load(Ordering::Relaxed) && self.received.load(Ordering::Relaxed) {
            self.in_head.store(true, Ordering::Relaxed);
            self.touch();
        }
    }
}

/// hyper's timer of an HTTP/1 connection. hyper starts it when it waits for a request head, and polls it until the head
/// is complete. It never fires: [`ClientTimer`] does instead, because it knows whether the head has started.
#[derive(Clone, Debug)]
pub(crate) struct HeadTimer(pub(crate) Arc<Activity>);

// The trait uses std's `Instant`.
#[allow(clippy::disallowed_types)]
impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        self.0.waits();
        Box::pin(Waiting(Arc::clone(&self.0)))
    }

    fn sleep_until(&self, _: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(FOR_EVER)
    }

    fn now(&self) -> std::time::Instant {
        // The only use of this value is `sleep_until`, which ignores it.
        self.0.began.into_std()
    }
}

struct Waiting(Arc<Activity>);

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        self.0.still_waits();
        Poll::Pending
    }
}

impl Sleep for Waiting {}

/// A stream of an HTTP/2 connection, until this is dropped.
#[derive(Debug)]
pub(crate) struct Open(Arc<Activity>);

impl Drop for Open {
    fn drop(&mut self) {
        // Updated before the count falls, so that no task sees an idle connection with an old time.
        self.0.touch();
        self.0.open.fetch_sub(1, Ordering::AcqRel);
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

pin_project! {
    /// Completes when the client of a connection has sent nothing, or read nothing, for too long. Poll it after the
    /// connection, in the same task.
    pub(crate) struct ClientTimer {
        activity: Arc<Activity>,
        // When the timer fires, in milliseconds after the connection began.
        fires: u64,
        #[pin]
        sleep: tokio::time::Sleep,
    }
}

impl ClientTimer {
    pub(crate) fn new(activity: Arc<Activity>) -> Self {
        let fires = activity.deadline().unwrap_or_else(|| activity.look_again());
        let sleep = tokio::time::sleep_until(activity.instant(fires));
        Self {
            activity,
            fires,
            sleep,
        }
    }

    /// Whether it has to be polled although its timer has not fired, because the deadline is earlier.
    #[inline]
    pub(crate) fn fires_too_late(&self) -> bool {
        let deadline = self.activity.deadline();
        deadline.is_some_and(|deadline| deadline < self.fires)
    }
}

impl Future for ClientTimer {
    type Output = Lateness;

    /// The timer is reset only when it fires or would fire too late, so a request does not touch it. While requests are
    /// served, it fires once per idle timeout, which is never later than the next deadline.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Lateness> {
        let mut this = self.project();
        if let Some(deadline) = this.activity.deadline()
            && deadline < *this.fires
        {
            *this.fires = deadline;
            this.sleep.as_mut().reset(this.activity.instant(deadline));
        }
        while this.sleep.as_mut().poll(cx).is_ready() {
            if let Some(late) = this.activity.lateness() {
                return Poll::Ready(late);
            }
            let next = this.activity.deadline();
            let next = next.unwrap_or_else(|| this.activity.look_again());
            *this.fires = next;
            this.sleep.as_mut().reset(this.activity.instant(next));
        }
        Poll::Pending
    }
}
