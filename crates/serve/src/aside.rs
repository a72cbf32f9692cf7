//! Work beside a future that is polled much more often.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use parking_lot::Mutex;

/// Polls futures only when they have been woken, although their task is polled for every frame.
///
/// They get a waker of their own, which wakes the task.
#[derive(Debug)]
pub(crate) struct Aside {
    woken: Arc<Woken>,
    waker: Waker,
    /// The same as in `woken`, to be compared without a lock.
    task: Waker,
}

#[derive(Debug)]
struct Woken {
    woken: AtomicBool,
    task: Mutex<Waker>,
}

impl Aside {
    pub(crate) fn new() -> Self {
        let woken = Arc::new(Woken {
            woken: AtomicBool::new(true),
            task: Mutex::new(Waker::noop().clone()),
        });
        Self {
            waker: Waker::from(Arc::clone(&woken)),
            woken,
            task: Waker::noop().clone(),
        }
    }

    /// Calls `poll` if one of its futures has been woken since the last call, or if it is `due`.
    pub(crate) fn poll<T>(
        &mut self,
        task: &Context<'_>,
        due: bool,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if !self.task.will_wake(task.waker()) {
            self.task.clone_from(task.waker());
            self.woken.task.lock().clone_from(task.waker());
        }
        // The load is cheaper than the swap, and nearly always false. A wake after it wakes the task again.
        if !due && !self.woken.woken.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.woken.woken.swap(false, Ordering::AcqRel);
        poll(&mut Context::from_waker(&self.waker))
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        let task = self.task.lock().clone();
        task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, task::Waker};

    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn it_is_polled_at_first_and_when_woken_or_due() {
        let notify = Notify::new();
        let polled = Cell::new(0);
        let mut notified = std::pin::pin!(notify.notified());
        let mut aside = Aside::new();
        let mut look = |due| {
            let task = Context::from_waker(Waker::noop());
            aside.poll(&task, due, |cx| {
                polled.set(polled.get() + 1);
                notified.as_mut().poll(cx)
            })
        };
        assert!(look(false).is_pending());
        assert!(look(false).is_pending());
        assert_eq!(polled.get(), 1);
        assert!(look(true).is_pending());
        assert_eq!(polled.get(), 2);
        notify.notify_one();
        assert!(look(false).is_ready());
        assert_eq!(polled.get(), 3);
    }

    #[tokio::test]
    async fn its_waker_wakes_the_task_of_the_last_poll() {
        let notify = Arc::new(Notify::new());
        let mut notified = Box::pin({
            let notify = Arc::clone(&notify);
            async move { notify.notified().await }
        });
        let mut aside = Aside::new();
        let task = Context::from_waker(Waker::noop());
        let pending = aside.poll(&task, false, |cx| notified.as_mut().poll(cx));
        assert!(pending.is_pending());
        // From here on it runs in another task, which must be the one that is woken.
        let (began, begun) = tokio::sync::oneshot::channel();
        let mut began = Some(began);
        let moved = tokio::spawn(async move {
            std::future::poll_fn(|task| {
                let polled = aside.poll(task, false, |cx| notified.as_mut().poll(cx));
                if let Some(began) = began.take() {
                    began.send(()).unwrap();
                }
                polled
            })
            .await;
        });
        begun.await.unwrap();
        notify.notify_one();
        moved.await.unwrap();
    }
}
