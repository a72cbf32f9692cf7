//! The current request of a thread.

use std::{
    cell::Cell,
    fmt,
    marker::PhantomData,
    mem::{self, ManuallyDrop},
};

use tower_stream_core::{Exchange, RequestId, Scope, Sequence};

/// The id and the sequence of the request that the current code runs for. Empty outside of any request.
///
/// [`RequestIdLayer`](crate::RequestIdLayer) enters the scope of its request whenever the inner future or the response
/// body is polled or dropped. [`RequestScope::current`] returns it, without a span and whatever the log filter is. A
/// thread, a task or a blocking call that the request starts is outside of the scope, unless it is started with `spawn`
/// (feature `tokio`) or [`in_request`]. For another executor, or a stream, wrap the future or stream in a
/// [`Scoped`](tower_stream_core::Scoped). axum runs a websocket on a task of its own: take the scope in the handler,
/// and pass `move |socket| Scoped::new(chat(socket), scope)` to `WebSocketUpgrade::on_upgrade`.
///
/// ```
/// use tower_stream_core::Scoped;
/// use tower_stream_ids::{RequestScope, Sequence};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let scope = RequestScope::new("a1".parse().unwrap(), Sequence::new());
/// let work = async { RequestScope::current().request_id().map(ToString::to_string) };
/// assert_eq!(Scoped::new(work, scope).await.as_deref(), Some("a1"));
/// assert_eq!(RequestScope::current().request_id(), None);
/// # }
/// ```
#[derive(Clone, Default)]
pub struct RequestScope(Option<Exchange>);

thread_local! {
    /// Never dropped, which makes access cheaper. Nothing leaks: every scope has been left when a thread ends, so the
    /// value is empty.
    static CURRENT: Cell<ManuallyDrop<RequestScope>> =
        const { Cell::new(ManuallyDrop::new(RequestScope(None))) };
}

impl RequestScope {
    /// Creates the scope of a request with this id and sequence.
    #[must_use]
    pub fn new(request_id: RequestId, sequence: Sequence) -> Self {
        Self(Some(Exchange::with_ids(request_id, sequence)))
    }

    pub(crate) fn of(exchange: &Exchange) -> Self {
        Self(Some(exchange.clone()))
    }

    /// Returns the scope of the request that runs on this thread, or an empty one outside of any request.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.with(|current| {
            let scope = ManuallyDrop::into_inner(current.take());
            let found = scope.clone();
            current.set(ManuallyDrop::new(scope));
            found
        })
    }

    /// The id of the request.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        self.0.as_ref()?.request_id()
    }

    /// The sequence of the request.
    #[must_use]
    pub fn sequence(&self) -> Option<Sequence> {
        self.0.as_ref().map(Exchange::sequence)
    }

    /// Runs `f` in this scope. An empty scope changes nothing.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        let mut scope = self.clone();
        let _entered = scope.enter();
        f()
    }
}

impl Scope for RequestScope {
    type Entered<'a> = Entered<'a>;

    /// Moves the scope into a thread-local, so that polling a stream changes no reference count. An empty scope changes
    /// nothing.
    #[inline]
    fn enter(&mut self) -> Entered<'_> {
        let mut scope = self.0.is_some().then_some(self);
        if let Some(scope) = &mut scope {
            swap(scope);
        }
        Entered {
            scope,
            stays: PhantomData,
        }
    }
}

/// Swaps `scope` and the current scope.
#[inline]
fn swap(scope: &mut RequestScope) {
    CURRENT.with(|current| {
        let own = ManuallyDrop::new(mem::take(scope));
        *scope = ManuallyDrop::into_inner(current.replace(own));
    });
}

/// An entered [`RequestScope`]. Dropping it leaves the scope. Leave scopes in the reverse order of entering.
#[must_use = "the scope is left when this is dropped"]
pub struct Entered<'a> {
    /// While entered, holds the previous scope.
    scope: Option<&'a mut RequestScope>,
    stays: PhantomData<*const ()>,
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(scope) = self.scope.take() {
            swap(scope);
        }
    }
}

impl fmt::Debug for Entered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entered").finish_non_exhaustive()
    }
}

impl fmt::Debug for RequestScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestScope")
            .field("request_id", &self.request_id())
            .field("sequence", &self.sequence())
            .finish()
    }
}

/// Wraps a closure so that it runs in the current scope, wherever it is called: on another thread, in `spawn_blocking`,
/// in a thread pool. Outside of any request it has no effect.
///
/// ```
/// use tower_stream_ids::{RequestScope, Sequence, in_request};
///
/// let scope = RequestScope::new("a1".parse().unwrap(), Sequence::new());
/// let thread = scope.run(|| {
///     std::thread::spawn(in_request(|| RequestScope::current().request_id().cloned()))
/// });
/// assert_eq!(thread.join().unwrap(), Some("a1".parse().unwrap()));
/// ```
pub fn in_request<T>(f: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let scope = RequestScope::current();
    move || scope.run(f)
}

/// Spawns a tokio task in the current scope. Its log lines have the ids, and so do the calls that it makes through a
/// [`ForwardRequestIdLayer`](crate::ForwardRequestIdLayer).
///
/// The task may outlive the request. It does not inherit the current span; use `in_current_span` of `tracing` for that.
///
/// # Panics
///
/// Panics when called outside of a tokio runtime, as `tokio::spawn` does.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use tower_stream_ids::{RequestScope, Sequence, spawn};
///
/// let scope = RequestScope::new("a1".parse().unwrap(), Sequence::new());
/// let task = scope.run(|| spawn(async { RequestScope::current().request_id().cloned() }));
/// assert_eq!(task.await.unwrap(), Some("a1".parse().unwrap()));
/// # }
/// ```
#[cfg(feature = "tokio")]
#[track_caller]
pub fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(tower_stream_core::Scoped::new(
        future,
        RequestScope::current(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(id: &str) -> RequestScope {
        RequestScope::new(id.parse().unwrap(), Sequence::new())
    }

    fn current() -> String {
        let current = RequestScope::current();
        current
            .request_id()
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    #[test]
    fn scopes_nest_and_an_empty_one_changes_nothing() {
        scope("a").run(|| {
            scope("b").run(|| assert_eq!(current(), "b"));
            RequestScope::default().run(|| assert_eq!(current(), "a"));
            assert_eq!(current(), "a");
        });
        assert_eq!(current(), "");
    }

    #[test]
    fn a_panic_leaves_the_scope() {
        let panicked = std::panic::catch_unwind(|| scope("a").run(|| panic!("scripted")));
        assert!(panicked.is_err());
        assert_eq!(current(), "");
    }

    #[test]
    fn a_thread_local_that_outlives_ours_sees_no_request() {
        struct Last;
        impl Drop for Last {
            fn drop(&mut self) {
                let _ = RequestScope::current();
                scope("a").run(|| ());
            }
        }
        thread_local!(static LAST: Last = const { Last });
        std::thread::spawn(|| {
            LAST.with(|_| ());
            scope("a").run(|| ());
        })
        .join()
        .unwrap();
    }
}
