//! A panic hook that remembers where a panic was.

use std::{
    backtrace::Backtrace,
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

/// What the hook saw of a panic.
pub(crate) struct Seen {
    pub(crate) location: String,
    pub(crate) backtrace: Option<Backtrace>,
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
/// crash reporter or the standard message keeps working. A hook that is set later and drops this one loses the
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

    /// Installs it for the whole process. Installed again, it only changes its settings.
    ///
    /// # Panics
    ///
    /// When called from a panicking thread, as `std::panic::set_hook` does.
    pub fn install(self) {
        BACKTRACE.store(self.backtrace, Ordering::Relaxed);
        if INSTALLED.swap(true, Ordering::Relaxed) {
            return;
        }
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let seen = Seen {
                location: info.location().map(ToString::to_string).unwrap_or_default(),
                backtrace: BACKTRACE
                    .load(Ordering::Relaxed)
                    .then(Backtrace::force_capture),
            };
            RUNS.set(RUNS.get().wrapping_add(1));
            // neither may fail here: a panic in a hook ends the process
            let _ = LAST.try_with(|last| {
                if let Ok(mut last) = last.try_borrow_mut() {
                    *last = Some(seen);
                }
            });
            previous(info);
        }));
    }
}
