//! Why a server drops a response.

use std::cell::{Cell, RefCell};

use crate::Cause;

thread_local! {
    /// Whether there is a cause. Read once per response, and cheaper than the cause itself.
    static IS_SET: Cell<bool> = const { Cell::new(false) };
    static CAUSE: RefCell<Option<Cause>> = const { RefCell::new(None) };
}

/// Calls `drop`, which drops a response that a server cannot send, for this cause. The layers that follow the response
/// record the cause in its [`Exchange`](crate::Exchange) before they report its end.
///
/// For servers. A server learns why it ends a response, for example because its client does not read, when only the
/// body is left, inside of the connection. It need not keep the exchange of each request for that.
///
/// ```
/// use tower_stream_core::{Cause, FaultKind, drop_for};
///
/// # let connection = ();
/// let cause = Cause::new(FaultKind::SlowReader, "the client took nothing for 30 s");
/// drop_for(cause, || drop(connection));
/// ```
pub fn drop_for<T>(cause: Cause, drop: impl FnOnce() -> T) -> T {
    let before = CAUSE.replace(Some(cause));
    let _restored = Restored(before);
    IS_SET.set(true);
    drop()
}

/// Restores the cause of an outer call, also if a drop panics.
struct Restored(Option<Cause>);

impl Drop for Restored {
    fn drop(&mut self) {
        IS_SET.set(self.0.is_some());
        CAUSE.set(self.0.take());
    }
}

/// The cause for which this thread drops a response now.
#[inline]
pub(crate) fn drop_cause() -> Option<Cause> {
    match IS_SET.get() {
        true => CAUSE.with_borrow(Clone::clone),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;
    use crate::FaultKind;

    fn cause(message: &str) -> Cause {
        Cause::new(FaultKind::SlowReader, message)
    }

    #[test]
    fn the_cause_is_known_during_the_call_only() {
        assert_eq!(drop_cause(), None);
        drop_for(cause("outer"), || {
            let panicked = catch_unwind(|| drop_for(cause("inner"), || panic!("scripted")));
            assert!(panicked.is_err());
            assert_eq!(drop_cause(), Some(cause("outer")));
        });
        assert_eq!(drop_cause(), None);
    }
}
