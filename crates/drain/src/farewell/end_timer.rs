//! Decides when the drain ends a response, and wakes its task at that time.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
};

use super::Policy;
use crate::shared::Shared;

/// Decides when the drain ends a response, and wakes its task at that time.
///
/// The start of the drain wakes every waiting response once; each one then sleeps until its own time.
pub(super) struct EndTimer {
    shared: Arc<Shared>,
    /// `None`: the response ends at the deadline, never before.
    policy: Option<Policy>,
    /// Position of the stream in the window of its policy, from 0 to 1.
    jitter: f32,
    /// Whether the time has come while the stream was in the middle of a record.
    missed: bool,
    /// Created when the response first has to wait; many never do.
    sleep: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    /// The waker to call when the drain is started.
    waker: Option<Waker>,
}

/// Whether the drain ends a response now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    NotYet,
    /// If it is between two records.
    AtBoundary,
    /// Wherever it is.
    Anywhere,
}

impl EndTimer {
    /// Ends a response at the deadline.
    #[inline]
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            policy: None,
            jitter: fastrand::f32(),
            missed: false,
            sleep: None,
            waker: None,
        }
    }

    /// Makes the response a stream that ends by this policy.
    #[inline]
    pub(super) fn set_policy(&mut self, policy: Option<Policy>) {
        self.policy = policy;
        self.missed = false;
        self.clear();
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    #[inline]
    pub(super) fn due(&self) -> Due {
        match self.shared.is_draining() {
            true => self.due_while_draining(),
            false => Due::NotYet,
        }
    }

    #[cold]
    fn due_while_draining(&self) -> Due {
        let now = tokio::time::Instant::now();
        let Some(schedule) = self.shared.schedule() else {
            return Due::NotYet;
        };
        if schedule.deadline.is_some_and(|at| at <= now) {
            return Due::Anywhere;
        }
        match schedule.due(self.policy, self.jitter) {
            Some(at) if at <= now => Due::AtBoundary,
            _ => Due::NotYet,
        }
    }

    /// Called when the response is pending: wakes its task when it has to end.
    #[inline]
    pub(super) fn wait(&mut self, cx: &mut Context<'_>) {
        let waker = self.waker.as_ref();
        // Before the start, the registered waker stays valid.
        if self.shared.is_draining() || !waker.is_some_and(|known| known.will_wake(cx.waker())) {
            self.register(cx);
        }
    }

    #[cold]
    fn register(&mut self, cx: &mut Context<'_>) {
        self.waker = Some(cx.waker().clone());
        loop {
            let policy = self.policy.filter(|_| !self.missed);
            let sleep = self.sleep.get_or_insert_with(|| {
                let (shared, jitter) = (Arc::clone(&self.shared), self.jitter);
                Box::pin(async move {
                    shared.until(|schedule| schedule.due(policy, jitter)).await;
                })
            });
            if sleep.as_mut().poll(cx).is_pending() {
                return;
            }
            self.sleep = None;
            // A stream in the middle of a record ends at its next boundary, or at the latest at the deadline. At the
            // deadline it ends now.
            if std::mem::replace(&mut self.missed, true) {
                return;
            }
        }
    }

    /// The response has ended, so nothing has to be woken any more.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.sleep = None;
        self.waker = None;
    }
}
