//! Access of a request to its drain: a handle to observe it, and a token to hold it.

use std::{any::Any, fmt, pin::Pin, sync::Arc};

use http::Extensions;
use tokio::time::Instant;
use tower_stream_core::{DrainHandle, DrainHold, Exchange};

use crate::{Drain, State, shared::Shared};

/// In the extensions of a request: the drain of an inner layer, if an outer layer of another drain has stored its own
/// in the [`Exchange`]. Extensions are cloned, so this does not hold the drain.
#[derive(Clone)]
struct InnerDrain(Arc<Shared>);

/// Stores the drain that counts the request, for its handler. Returns false if a layer of this drain has counted the
/// request already.
#[inline]
pub(crate) fn leave(
    shared: &Arc<Shared>,
    exchange: &Exchange,
    extensions: &mut Extensions,
) -> bool {
    let drain = Arc::clone(shared);
    exchange.set_drain(drain) || leave_inner(shared, exchange, extensions)
}

#[cold]
fn leave_inner(shared: &Arc<Shared>, exchange: &Exchange, extensions: &mut Extensions) -> bool {
    let outer = exchange.drain();
    if outer.is_some_and(|outer| std::ptr::addr_eq(Arc::as_ptr(outer), Arc::as_ptr(shared))) {
        return false;
    }
    let outer = extensions.insert(InnerDrain(Arc::clone(shared)));
    !outer.is_some_and(|outer| Arc::ptr_eq(&outer.0, shared))
}

fn innermost(request: &Extensions) -> Option<Arc<Shared>> {
    if let Some(InnerDrain(shared)) = request.get() {
        return Some(Arc::clone(shared));
    }
    let drain = Arc::clone(Exchange::get(request)?.drain()?);
    let drain: Arc<dyn Any + Send + Sync> = drain;
    drain.downcast().ok()
}

/// Lets a handler observe its drain, so that it can stop early. An extractor (feature `axum`).
///
/// ```
/// use tower_stream_drain::{Drain, Draining};
///
/// async fn crunch(draining: Draining) -> String {
///     let mut done = 0;
///     while done < 1_000 && !draining.is_draining() {
///         done += 1;
///     }
///     format!("did {done}, ask again for the rest")
/// }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let drain = Drain::builder().build();
/// # assert_eq!(crunch(drain.draining()).await, "did 1000, ask again for the rest");
/// # drain.start();
/// # assert_eq!(crunch(drain.draining()).await, "did 0, ask again for the rest");
/// # }
/// ```
#[derive(Clone)]
pub struct Draining {
    shared: Arc<Shared>,
}

impl Draining {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The drain of the innermost [`DrainLayer`](crate::DrainLayer) that the request with these extensions passed.
    #[must_use]
    pub fn of(request: &Extensions) -> Option<Self> {
        innermost(request).map(Self::new)
    }

    /// Returns whether the drain has been started.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.state().is_draining()
    }

    /// The state of the drain.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.state()
    }

    /// When everything still in flight is aborted. `None` before the start, and for a drain without a
    /// [deadline](crate::Builder::no_deadline). A second start may bring it forward.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.shared.schedule()?.deadline
    }

    /// Waits until the drain is started. Returns at once if it already has been.
    pub async fn started(&self) {
        self.shared.started().await;
    }
}

impl fmt::Debug for Draining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Holds the drain for work that outlives its request: a websocket, a CONNECT tunnel, a background job.
///
/// A request is counted until its response body is dropped, which for an upgrade is at the 101. Take the token **in the
/// handler** and move it into the task that owns the connection: the drain waits until the token is dropped. An
/// extractor (feature `axum`).
///
/// ```
/// # use tower_stream_drain::{Drain, DrainToken};
/// # async fn talk(_upgraded: ()) {}
/// async fn websocket(token: DrainToken, upgraded: ()) {
///     tokio::spawn(async move {
///         let draining = token.draining();
///         tokio::select! {
///             () = talk(upgraded) => {}
///             // say goodbye instead of being aborted
///             () = draining.started() => {}
///         }
///         drop(token);
///     });
/// }
/// ```
#[must_use = "the drain waits only as long as the token is held"]
pub struct DrainToken {
    shared: Arc<Shared>,
}

impl DrainToken {
    /// Creates a token for the request with these extensions. `None` if it passed no [`DrainLayer`](crate::DrainLayer).
    pub fn of(request: &Extensions) -> Option<Self> {
        innermost(request).map(Self::take)
    }

    /// Creates a token for work without a request.
    pub fn new(drain: &Drain) -> Self {
        Self::take(Arc::clone(&drain.shared))
    }

    fn take(shared: Arc<Shared>) -> Self {
        // Never refused, because the request that asks for it was admitted and is still counted.
        shared.admission.hold();
        Self { shared }
    }

    /// The drain that this token holds.
    #[must_use]
    pub fn draining(&self) -> Draining {
        Draining::new(Arc::clone(&self.shared))
    }
}

impl DrainHandle for Shared {
    fn hold(self: Arc<Self>) -> Box<dyn DrainHold> {
        Box::new(DrainToken::take(self))
    }
}

impl DrainHold for DrainToken {
    fn deadline(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.until(|schedule| schedule.deadline).await })
    }
}

impl Drop for DrainToken {
    fn drop(&mut self) {
        self.shared.leave();
    }
}

impl fmt::Debug for DrainToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainToken").finish_non_exhaustive()
    }
}

#[cfg(feature = "axum")]
mod extract {
    use axum_core::extract::FromRequestParts;
    use http::request::Parts;
    use tower_stream_core::MissingLayer;

    use super::{DrainToken, Draining};

    const MISSING: MissingLayer = MissingLayer::new("drain", "DrainLayer of tower-stream-drain");

    impl<S: Sync> FromRequestParts<S> for Draining {
        type Rejection = MissingLayer;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
            Self::of(&parts.extensions).ok_or(MISSING)
        }
    }

    impl<S: Sync> FromRequestParts<S> for DrainToken {
        type Rejection = MissingLayer;

        async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
            Self::of(&parts.extensions).ok_or(MISSING)
        }
    }
}
