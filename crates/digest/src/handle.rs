//! A result that is set when a body has ended.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// Called when a body has ended.
pub(crate) type Callback<T> = Arc<dyn Fn(&T) + Send + Sync>;

/// A handle to a value that is set when a body has ended. The layers insert it into the extensions of a response (or of
/// an upload) before its body is polled.
///
/// Clones share the value: clone the handle out of the extensions, and read it after the body has ended.
pub struct DigestHandle<T>(Arc<OnceLock<T>>);

impl<T> DigestHandle<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Sets the value and calls the callback. If there is neither a callback nor another clone, the value is not
    /// computed. This is the common case, because a server drops the extensions together with the head.
    pub(crate) fn tell(&self, callback: Option<&Callback<T>>, value: impl FnOnce() -> T) {
        if callback.is_none() && Arc::strong_count(&self.0) == 1 {
            return;
        }
        let value = self.0.get_or_init(value);
        if let Some(callback) = callback {
            callback(value);
        }
    }

    /// Returns the value, or `None` until the body has ended.
    pub fn get(&self) -> Option<&T> {
        self.0.get()
    }
}

impl<T> Clone for DigestHandle<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: fmt::Debug> fmt::Debug for DigestHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DigestHandle").field(&self.get()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_nobody_can_read_is_not_made() {
        let alone = DigestHandle::<u8>::new();
        alone.tell(None, || panic!("made for nobody"));
        let kept = alone.clone();
        alone.tell(None, || 7);
        assert_eq!(kept.get(), Some(&7));

        let told = Arc::new(OnceLock::new());
        let callback: Callback<u8> = {
            let told = Arc::clone(&told);
            Arc::new(move |value| told.set(*value).unwrap())
        };
        DigestHandle::new().tell(Some(&callback), || 8);
        assert_eq!(told.get(), Some(&8));
    }
}
