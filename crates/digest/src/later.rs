//! What is only known when a body has ended.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// A value that is there once a body has ended, found in response (or request) extensions before.
///
/// Clones share the value. A layer or handler keeps a clone of it from the head, and reads it after the body.
pub struct Later<T>(Arc<OnceLock<T>>);

impl<T> Later<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn set(&self, value: T) {
        // set once by construction: an `Observe::end` or a decision before the head, never both
        let _ = self.0.set(value);
    }

    /// The value, `None` until the body has ended.
    pub fn get(&self) -> Option<&T> {
        self.0.get()
    }
}

impl<T> Clone for Later<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: fmt::Debug> fmt::Debug for Later<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Later").field(&self.get()).finish()
    }
}
