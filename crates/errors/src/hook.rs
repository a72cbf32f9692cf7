//! A panic hook that remembers where a panic was.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    cell::{Cell, RefCell},
    panic,
    sync::atomic::{AtomicBool, Ordering},
};

thread_local! {
    static LAST: RefCell<Option<Seen>> = const { RefCell::new(None) };
    /// how often the hook ran on this thread
    static RUNS: Cell<u32> = const { Cell::new(0) };
}

static INSTALLED: AtomicBool = AtomicBool::new(false);
static BACKTRACE: AtomicBool = AtomicBool::new(false);
static LOG: AtomicBool = AtomicBool::new(false);

/// What the hook saw of a panic.
pub(crate) struct Seen {
    pub(crate) location: String,
    pub(crate) backtrace: Option<Backtrace>,
    /// The hook has logged the panic, with its place.
    pub(crate) logged: bool,
}

/// How often the hook has run on this thread; 0 without a hook, so that a frame then reads no thread-local.
#[inline]
pub(crate) fn runs() -> u32 {
    match INSTALLED.load(Ordering::Relaxed) {
        true => RUNS.get(),
        false => 0,
    }
}

/// The last panic of this thread, if the hook has run since [`runs`] gave `before`.
///
/// `resume_unwind` does not run the hook: a panic that is handed on from another task has no location here, and what
/// the hook saw last is another panic.
pub(crate) fn take_since(before: u32) -> Option<Seen> {
    let last = LAST.try_with(|last| last.try_borrow_mut().ok()?.take());
    last.ok()?.filter(|_| runs() != before)
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
    pub fn backtrace(mut self, backtrace: bool) -> Self {
        self.backtrace = backtrace;
        self
    }

    /// Whether each panic of the process is one `tracing` event, at ERROR with `error`, `location`, `thread` and, when it was
    /// captured, `backtrace`, and the hook that was there before does not run. Default: false.
    ///
    /// A response that fails by such a panic is not logged a second time. A backtrace is captured when `RUST_BACKTRACE` asks
    /// for one, or [`PanicHook::backtrace`] does. A panic within the subscriber itself, while it holds a lock, can deadlock.
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
                location: info.location().map(ToString::to_string).unwrap_or_default(),
                backtrace: backtrace.filter(|b| b.status() == BacktraceStatus::Captured),
                logged: log,
            };
            if log {
                log_panic(info, &seen);
            }
            RUNS.set(RUNS.get().wrapping_add(1));
            // neither may fail here: a panic in a hook ends the process
            let _ = LAST.try_with(|last| {
                if let Ok(mut last) = last.try_borrow_mut() {
                    *last = Some(seen);
                }
            });
            if !log {
                previous(info);
            }
        }));
    }
}

#[cold]
fn log_panic(info: &panic::PanicHookInfo<'_>, seen: &Seen) {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or(payload.downcast_ref::<String>().map(String::as_str));
    let backtrace = seen.backtrace.as_ref().map(ToString::to_string);
    tracing::error!(
        target: "tower_stream_errors",
        error = text.unwrap_or("a panic whose payload is not a string"),
        location = seen.location,
        thread = std::thread::current().name(),
        backtrace,
        "panicked"
    );
}
