//! Detects that a stream has been idle for long enough.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use crate::{
    layer::Config,
    ticker::{self, Place, TICKS, is_reached},
};

/// Detects that a stream has been idle for the interval of its layer, up to one tick less.
///
/// A frame neither reads a clock nor resets a timer: it only stores the current tick.
#[derive(Debug)]
pub(crate) struct Silence {
    config: Arc<Config>,
    /// The tick of the last frame.
    last: u32,
    /// The tick in which the task is woken.
    due: u32,
    /// The task that is woken. The ticker owns its waker, so no other task can have this identity.
    task: TaskId,
    /// `None` until the first wait.
    place: Option<Place>,
}

type TaskId = (usize, usize);

fn id(waker: &Waker) -> TaskId {
    let vtable: *const _ = waker.vtable();
    (waker.data().addr(), vtable.addr())
}

impl Silence {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self {
            last: config.ticker.now(),
            due: 0,
            task: (0, 0),
            place: None,
            config,
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// A frame has passed.
    #[inline(always)]
    pub(crate) fn end(&mut self) {
        self.last = self.config.ticker.now();
    }

    /// Fast path: returns whether nothing needs to be done in this poll, because this task is woken in time.
    #[inline(always)]
    pub(crate) fn is_set(&self, cx: &Context<'_>) -> bool {
        self.place.is_some()
            && !is_reached(self.due, self.config.ticker.now())
            && self.task == id(cx.waker())
    }

    /// Returns whether the stream has been idle for long enough. Its task is woken when it may be so next.
    pub(crate) fn is_over(&mut self, may_write: bool, cx: &Context<'_>) -> bool {
        let now = self.config.ticker.now();
        let over = self.place.is_some() && is_reached(self.last.wrapping_add(TICKS), now);
        if over {
            // If the stream must not be written into, only a frame changes that.
            self.last = now;
        }
        self.due = self.last.wrapping_add(TICKS);
        self.task = id(cx.waker());
        let ticker = &self.config.ticker;
        let (place, starts) = ticker.set(self.place, self.due, cx.waker().clone());
        self.place = Some(place);
        if starts {
            ticker::start(&self.config);
        }
        over && may_write
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.config.ticker.remove(place);
        }
    }
}
