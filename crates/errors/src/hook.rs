//! A panic hook that remembers where a panic was.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    cell::{Cell, RefCell},
    panic,
    sync::atomic::{AtomicBool, Ordering},
};

thread_local! {
    static LAST: RefCell<Option<Seen>> = const { RefCell::new(None) };
    /// How often the hook ran on this thread.
    static RUNS: Cell<u32> = const { Cell::new(0) };
    /// Whether this thread runs code whose panics are caught, and logged, by this crate.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

static INSTALLED: AtomicBool = AtomicBool::new(false);
static BACKTRACE: AtomicBool = AtomicBool::new(false);
static LOG: AtomicBool = AtomicBool::new(false);

/// What the hook saw of a panic.
pub(crate) struct Seen {
    message: String,
    pub(crate) location: String,
    pub(crate) backtrace: Option<Backtrace>,
}

/// A section of this thread whose panics are caught, and logged, by this crate, so that the hook need not log them.
#[derive(Clone, Copy)]
pub(crate) struct Watch {
    /// Without a hook, no thread-local is read.
    installed: bool,
    outer: bool,
    runs: u32,
}

impl Watch {
    #[inline]
    pub(crate) fn begin() -> Self {
        let installed = INSTALLED.load(Ordering::Relaxed);
        Self {
            installed,
            outer: installed && WATCHED.replace(true),
            runs: if installed { RUNS.get() } else { 0 },
        }
    }

    /// Ends a section that did not panic. If its code caught a panic itself, logs that panic here, because the hook has
    /// not.
    #[inline]
    pub(crate) fn end(self) {
        self.end_by_panic();
        if self.installed && RUNS.get() != self.runs {
            self.log_last();
        }
    }

    #[inline]
    pub(crate) fn end_by_panic(self) {
        if self.installed {
            WATCHED.set(self.outer);
        }
    }

    /// The last panic of the section, if the hook has run in it, and nobody else has taken it.
    ///
    /// `resume_unwind` does not run the hook: a panic that another task passes on has no location here, and what the
    /// hook saw last is another panic.
    pub(crate) fn take(self) -> Option<Seen> {
        if !self.installed || RUNS.get() == self.runs {
            return None;
        }
        LAST.try_with(|last| last.try_borrow_mut().ok()?.take())
            .ok()?
    }

    /// Logs the panic as the hook does, unless somebody outside does.
    #[cold]
    pub(crate) fn log_last(self) {
        if !self.outer
            && LOG.load(Ordering::Relaxed)
            && let Some(seen) = self.take()
        {
            seen.log();
        }
    }
}

/// Opt-in: lets the log event of a caught panic name its place in the source, and show a backtrace.
///
/// Only a panic hook learns these. This one is *chained*: it remembers, then runs the hook that was there before, so a
/// crash reporter or the standard message keeps working. With [`PanicHook::log`] it logs each panic instead, so that the
/// standard message does not stand between lines of JSON. A hook that is set later and drops this one loses the
/// location and nothing else.
///
/// A panic that is handed on with `std::panic::resume_unwind`, from a task that was joined, runs no hook: its log event
/// has the message and no location.
///
/// ```
/// use tower_stream_errors::PanicHook;
///
/// // first thing in main, after hooks of other libraries
/// PanicHook::new().install();
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "nothing happens before `install`"]
pub struct PanicHook {
    backtrace: bool,
    log: bool,
}

impl PanicHook {
    /// Remembers the location of each panic.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to capture a backtrace of each panic too, whatever `RUST_BACKTRACE` says: some milliseconds a panic.
    ///
    /// The log event has the frames of the user's code, at most 32 of them. Those of tokio, hyper, axum, tower and these
    /// layers, whose names alone are tens of kilobytes, are only shown with `RUST_BACKTRACE=full`.
    pub fn backtrace(mut self, backtrace: bool) -> Self {
        self.backtrace = backtrace;
        self
    }

    /// Whether each panic of the process is one `tracing` event, and the hook that was there before does not run. Default:
    /// false.
    ///
    /// A panic that the [`ErrorWriterLayer`](crate::ErrorWriterLayer) catches is in the event of its response, which also has
    /// `outcome` and `kind`. Any other panic is an event `panicked` at ERROR, with `error`, `location` and `thread`. Both
    /// have a `backtrace` if `RUST_BACKTRACE` or [`PanicHook::backtrace`] asks for one. A panic within the subscriber
    /// itself, while it holds a lock, can deadlock.
    ///
    /// ```
    /// use tower_stream_errors::PanicHook;
    ///
    /// // with a subscriber that writes JSON
    /// PanicHook::new().log(true).install();
    /// ```
    pub fn log(mut self, log: bool) -> Self {
        self.log = log;
        self
    }

    /// Installs it for the whole process. Installed again, it only changes its settings.
    ///
    /// # Panics
    ///
    /// When called from a panicking thread, as `std::panic::set_hook` does.
    pub fn install(self) {
        BACKTRACE.store(self.backtrace, Ordering::Relaxed);
        LOG.store(self.log, Ordering::Relaxed);
        if INSTALLED.swap(true, Ordering::Relaxed) {
            return;
        }
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let log = LOG.load(Ordering::Relaxed);
            let backtrace = match BACKTRACE.load(Ordering::Relaxed) {
                true => Some(Backtrace::force_capture()),
                false if log => Some(Backtrace::capture()),
                false => None,
            };
            let seen = Seen {
                message: message(info.payload()).to_owned(),
                location: info.location().map(ToString::to_string).unwrap_or_default(),
                backtrace: backtrace.filter(|b| b.status() == BacktraceStatus::Captured),
            };
            // Accessing a thread-local must not fail here, because a panic in a hook aborts the process.
            let watched = WATCHED.try_with(Cell::get).unwrap_or(false);
            if log && !watched {
                seen.log();
            }
            let _ = RUNS.try_with(|runs| runs.set(runs.get().wrapping_add(1)));
            let _ = LAST.try_with(|last| {
                if let Ok(mut last) = last.try_borrow_mut() {
                    *last = watched.then_some(seen);
                }
            });
            if !log {
                previous(info);
            }
        }));
    }
}

impl Seen {
    #[cold]
    fn log(&self) {
        tracing::error!(
            target: "tower_stream_errors",
            error = self.message,
            location = self.location,
            thread = std::thread::current().name(),
            backtrace = self.backtrace.as_ref().map(crate::backtrace::text),
            "panicked"
        );
    }
}

/// The message of a panic.
pub(crate) fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or(payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic whose payload is not a string")
}
