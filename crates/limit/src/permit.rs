//! The permit of a request.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use http::Extensions;
use tower_stream_core::Exchange;

use crate::{
    limit::{KeyEntry, Limit},
    refusal::Reason,
};

/// The slots that a request has taken. Only dropping it gives them back, so this happens exactly once.
pub(crate) struct Permit {
    limit: Arc<Limit>,
    key: Option<Arc<KeyEntry>>,
    has_key: AtomicBool,
    /// Whether it counts among the streams whose first chunk is awaited, of an adaptive limit.
    is_awaited: AtomicBool,
    has_stream: AtomicBool,
}

impl Permit {
    #[inline]
    pub(crate) fn new(limit: Arc<Limit>, key: Option<Arc<KeyEntry>>) -> Self {
        Self {
            limit,
            key,
            has_key: AtomicBool::new(false),
            is_awaited: AtomicBool::new(false),
            has_stream: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(crate) fn try_take_key(&self) -> bool {
        let Some(key) = &self.key else {
            return true;
        };
        let taken = key.slots.try_take();
        self.has_key.store(taken, Ordering::Relaxed);
        taken
    }

    pub(crate) async fn take_key(&self) {
        if let Some(key) = &self.key {
            key.slots.take().await;
            self.has_key.store(true, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn try_take_stream(&self) -> bool {
        if let Some(gradient) = &self.limit.gradient {
            if !gradient.awaited.try_take() {
                return false;
            }
            self.is_awaited.store(true, Ordering::Relaxed);
        }
        let taken = self.limit.slots.try_take();
        self.has_stream.store(taken, Ordering::Relaxed);
        taken
    }

    pub(crate) async fn take_stream(&self) {
        if let Some(gradient) = &self.limit.gradient
            && !self.is_awaited.load(Ordering::Relaxed)
        {
            gradient.awaited.take().await;
            self.is_awaited.store(true, Ordering::Relaxed);
        }
        self.limit.slots.take().await;
        self.has_stream.store(true, Ordering::Relaxed);
    }

    /// The first chunk of the stream is there, or is not awaited any more.
    pub(crate) fn begun(&self) {
        if let Some(gradient) = &self.limit.gradient
            && self.is_awaited.swap(false, Ordering::Relaxed)
        {
            gradient.awaited.give_back();
        }
    }

    pub(crate) fn slots(&self, reason: Reason) -> Option<&crate::slots::Slots> {
        match reason {
            Reason::Key => self.key.as_ref().map(|key| &key.slots),
            _ => Some(&self.limit.slots),
        }
    }

    pub(crate) fn limit(&self) -> &Arc<Limit> {
        &self.limit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.begun();
        // The reverse order of taking: a request of this key that waits finds the stream's slot free.
        if *self.has_stream.get_mut() {
            self.limit.slots.give_back();
        }
        if *self.has_key.get_mut()
            && let Some(key) = &self.key
        {
            key.slots.give_back();
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

/// In the extensions of a request that passed more than one limit: the permits of the inner ones.
#[derive(Clone, Default)]
struct InnerPermits(Vec<Weak<Permit>>);

/// The permits of a request, outermost first.
fn permits(request: &Extensions) -> impl Iterator<Item = Arc<Permit>> {
    let outermost = Exchange::get(request).and_then(Exchange::permit);
    let outermost = outermost.and_then(|permit| permit.downcast().ok());
    let inner = request.get::<InnerPermits>();
    let inner = inner.map_or(&[][..], |permits| &permits.0);
    outermost
        .into_iter()
        .chain(inner.iter().filter_map(Weak::upgrade))
}

/// Returns whether a layer of this limit has admitted the request already.
#[inline]
pub(crate) fn is_admitted(limit: &Arc<Limit>, exchange: &Exchange, request: &Extensions) -> bool {
    exchange.permit().is_some() && permits(request).any(|permit| Arc::ptr_eq(&permit.limit, limit))
}

/// Stores the permit for the handler.
#[inline]
pub(crate) fn leave(permit: &Arc<Permit>, exchange: &Exchange, request: &mut Extensions) {
    let weak: Weak<dyn Any + Send + Sync> = Arc::<Permit>::downgrade(permit);
    if !exchange.set_permit(weak) {
        let mut inner = request.remove::<InnerPermits>().unwrap_or_default();
        inner.0.push(Arc::downgrade(permit));
        request.insert(inner);
    }
}

/// The permits of a request, for work that outlives it: a websocket, a CONNECT tunnel, a background job.
///
/// A permit is held until the response body is dropped, which for an upgrade is at the 101. Take a `StreamPermit` **in the
/// handler** and move it into the task that owns the connection: the limit counts the stream until it is dropped. It holds
/// the permits of all [`StreamLimitLayer`](crate::StreamLimitLayer)s that the request passed. An extractor (feature `axum`).
///
/// ```
/// # use tower_stream_limit::StreamPermit;
/// # async fn talk(_upgraded: ()) {}
/// async fn websocket(permit: StreamPermit, upgraded: ()) {
///     tokio::spawn(async move {
///         talk(upgraded).await;
///         drop(permit);
///     });
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "the limit counts the stream only as long as the permit is held"]
pub struct StreamPermit {
    permits: Arc<[Arc<Permit>]>,
}

impl StreamPermit {
    /// The permits of the request with these extensions. `None` if it passed no limit, or its response has ended.
    pub fn of(request: &Extensions) -> Option<Self> {
        let permits: Arc<[_]> = permits(request).collect();
        (!permits.is_empty()).then_some(Self { permits })
    }

    /// Number of limits that count this stream.
    #[must_use]
    pub fn limits(&self) -> usize {
        self.permits.len()
    }
}

#[cfg(feature = "axum")]
mod extract {
    use std::convert::Infallible;

    use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
    use http::request::Parts;
    use tower_stream_core::MissingLayer;

    use super::StreamPermit;

    impl<S: Sync> FromRequestParts<S> for StreamPermit {
        type Rejection = MissingLayer;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
            let layer = "StreamLimitLayer of tower-stream-limit";
            Self::of(&parts.extensions).ok_or(MissingLayer::new("permit", layer))
        }
    }

    impl<S: Sync> OptionalFromRequestParts<S> for StreamPermit {
        type Rejection = Infallible;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
            Ok(Self::of(&parts.extensions))
        }
    }
}
