//! What the layers have in common.

use std::{fmt, marker::PhantomData, sync::Arc};

/// What a layer was told, shared by its clones, and the algorithm that it was told for.
pub(crate) struct Setup<C, D> {
    config: Arc<C>,
    algorithm: PhantomData<fn() -> D>,
}

impl<C, D> Setup<C, D> {
    pub(crate) fn new(config: C) -> Self {
        Self {
            config: Arc::new(config),
            algorithm: PhantomData,
        }
    }

    pub(crate) fn config(&self) -> &Arc<C> {
        &self.config
    }

    pub(crate) fn set(mut self, set: impl FnOnce(&mut C)) -> Self
    where
        C: Clone,
    {
        set(Arc::make_mut(&mut self.config));
        self
    }
}

// not derived: nothing is asked of `D`
impl<C, D> Clone for Setup<C, D> {
    fn clone(&self) -> Self {
        Self {
            config: Arc::clone(&self.config),
            algorithm: PhantomData,
        }
    }
}

impl<C: fmt::Debug, D> fmt::Debug for Setup<C, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

/// A service with a layer of this crate around it: [`DigestService`](crate::DigestService),
/// [`VerifyDigestService`](crate::VerifyDigestService) or [`VerifyRequestDigestService`](crate::VerifyRequestDigestService).
#[derive(Clone, Debug)]
pub struct Layered<S, L> {
    pub(crate) inner: S,
    pub(crate) layer: L,
}
