//! The request that runs on this thread.

use std::{cell::RefCell, fmt, marker::PhantomData, mem};

use tower_stream_core::{Exchange, RequestId, Scope, Sequence};

/// The request that some code runs for: its id and its numbers, or none outside of any request.
///
/// [`RequestIdLayer`](crate::RequestIdLayer) keeps the scope of its request entered whenever the inner future or the
/// response body is polled or dropped, so code finds it with [`RequestScope::current`], without a span and whatever
/// the log filter says. A thread, a task or a blocking call that the request starts does not have it by itself:
/// see [`spawn`](crate::spawn) and [`in_request`]. For another executor, or a stream, wrap what runs there in a
/// [`Scoped`](tower_stream_core::Scoped). The task of a websocket is one of axum's: take the scope in the handler, and
/// let `WebSocketUpgrade::on_upgrade` run `move |socket| Scoped::new(chat(socket), scope)`.
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
    static CURRENT: RefCell<RequestScope> = const { RefCell::new(RequestScope(None)) };
}

impl RequestScope {
    /// The scope of a request with these ids.
    #[must_use]
    pub fn new(request_id: RequestId, sequence: Sequence) -> Self {
        Self(Some(Exchange::with_ids(request_id, sequence)))
    }

    pub(crate) fn of(exchange: &Exchange) -> Self {
        Self(Some(exchange.clone()))
    }

    /// The scope of the request that runs here now; an empty one outside of any request.
    #[must_use]
    pub fn current() -> Self {
        // a thread that is ending has no thread-locals any more, and runs no request
        CURRENT
            .try_with(|current| current.borrow().clone())
            .unwrap_or_default()
    }

    /// The id of the request.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        self.0.as_ref()?.request_id()
    }

    /// The numbers of the request.
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

    /// Lends the ids to the thread: nothing is counted or copied, however often a stream is polled. An empty scope
    /// changes nothing.
    #[inline]
    fn enter(&mut self) -> Entered<'_> {
        let entered = self.0.is_some() && swap(self);
        Entered {
            scope: entered.then_some(self),
            stays: PhantomData,
        }
    }
}

/// Puts `scope` in place of the current one, and that into `scope`. False on a thread that is ending.
#[inline]
fn swap(scope: &mut RequestScope) -> bool {
    CURRENT
        .try_with(|current| mem::swap(&mut *current.borrow_mut(), scope))
        .is_ok()
}

/// An entered [`RequestScope`]: left when this is dropped, on the same thread, before those entered earlier.
#[must_use = "the scope is left when this is dropped"]
pub struct Entered<'a> {
    /// While entered, it holds the scope that was current before.
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

/// Lets a closure that runs elsewhere (a thread, `spawn_blocking`, a thread pool) run for the request that runs here
/// now. Outside of any request it changes nothing.
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

/// `tokio::spawn` of a task that stays with the request that runs here now: its log lines carry the ids, and what it
/// sends through a [`ForwardRequestIdLayer`](crate::ForwardRequestIdLayer) too.
///
/// The task outlives the request when it likes. The current span does not come along; `tracing`'s `in_current_span`
/// does that.
///
/// # Panics
///
/// Outside of a tokio runtime, as `tokio::spawn` does.
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
