//! Catching a panic whole: what it said, where it was, and what its payload does when it is dropped.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    backtrace,
    hook::{self, Watch},
};

/// What a panic left behind.
pub(crate) struct Payload {
    thrown: Box<dyn Any + Send>,
    watch: Watch,
}

/// What is known of a panic.
#[derive(Debug)]
pub(crate) struct Panicked {
    pub(crate) message: String,
    pub(crate) location: Option<String>,
    pub(crate) backtrace: Option<String>,
}

/// Runs `run`; a panic ends here.
#[inline]
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, Payload> {
    let watch = Watch::begin();
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(value) => {
            watch.end();
            Ok(value)
        }
        Err(thrown) => {
            watch.end_by_panic();
            Err(Payload { thrown, watch })
        }
    }
}

/// Logs a panic in a drop, which changes nothing else.
#[cold]
pub(crate) fn log_dropped(what: &str, payload: Payload) {
    let Panicked {
        message,
        location,
        backtrace,
    } = payload.read();
    tracing::error!(
        target: "tower_stream_errors",
        error = message,
        location,
        backtrace,
        "{what} panicked while it was dropped"
    );
}

impl Payload {
    /// Lets the panic go on.
    #[cold]
    pub(crate) fn resume(self) -> ! {
        self.watch.log_last();
        std::panic::resume_unwind(self.thrown)
    }

    /// Reads the panic, at once: the next panic of this thread overwrites the recorded location.
    #[cold]
    pub(crate) fn read(self) -> Panicked {
        let (location, captured) = match self.watch.take() {
            Some(seen) => (Some(seen.location), seen.backtrace),
            None => (None, None),
        };
        let message = hook::message(&*self.thrown).to_owned();
        // The drop of the payload may panic, and so may the drop of that second payload, which is therefore leaked.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(self.thrown))) {
            std::mem::forget(second);
        }
        Panicked {
            message,
            location,
            backtrace: captured.as_ref().map(backtrace::text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    #[test]
    fn every_payload_is_read() {
        let said = |run: fn()| catch(run).map_err(|p| p.read().message).unwrap_err();
        assert_eq!(said(|| panic!("plain")), "plain");
        assert_eq!(said(|| panic!("formatted {}", 1)), "formatted 1");
        assert_eq!(
            said(|| panic_any(17_u8)),
            "a panic whose payload is not a string"
        );
    }

    #[test]
    fn a_payload_that_panics_in_its_drop_is_harmless() {
        struct Again(u8);
        impl Drop for Again {
            fn drop(&mut self) {
                if self.0 > 0 {
                    panic_any(Self(self.0 - 1));
                }
            }
        }
        let payload = catch(|| panic_any(Again(3))).unwrap_err();
        assert!(payload.read().message.contains("not a string"));
    }

    #[test]
    fn a_panic_in_a_drop_goes_no_further() {
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("in the drop");
            }
        }
        let payload = catch(|| drop(Bad)).unwrap_err();
        log_dropped("it", payload);
    }
}
