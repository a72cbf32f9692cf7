//! What is only known when a body has ended.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// Who is told when a body has ended.
pub(crate) type Callback<T> = Arc<dyn Fn(&T) + Send + Sync>;

/// A value that is there once a body has ended, found in response (or request) extensions before.
///
/// Clones share the value. A layer or handler keeps a clone of it from the head, and reads it after the body.
pub struct Later<T>(Arc<OnceLock<T>>);

impl<T> Later<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Sets the value and tells the callback. It is not even made when there is no callback and no other clone, which
    /// is as a rule: a server drops the extensions with the head.
    pub(crate) fn tell(&self, callback: Option<&Callback<T>>, value: impl FnOnce() -> T) {
        if callback.is_none() && Arc::strong_count(&self.0) == 1 {
            return;
        }
        let value = self.0.get_or_init(value);
        if let Some(callback) = callback {
            callback(value);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_nobody_can_read_is_not_made() {
        let alone = Later::<u8>::new();
        alone.tell(None, || panic!("made for nobody"));
        let kept = alone.clone();
        alone.tell(None, || 7);
        assert_eq!(kept.get(), Some(&7));

        let told = Arc::new(OnceLock::new());
        let callback: Callback<u8> = {
            let told = Arc::clone(&told);
            Arc::new(move |value| told.set(*value).unwrap())
        };
        Later::new().tell(Some(&callback), || 8);
        assert_eq!(told.get(), Some(&8));
    }
}
