//! A context that is entered whenever a future or a body runs.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// A context that can be entered: a tracing span or a thread-local, for example.
pub trait Scope {
    /// Leaves the context when it is dropped.
    type Entered<'a>
    where
        Self: 'a;

    /// Enters the context on this thread. `&mut` allows a scope to move its content to a thread-local instead of
    /// cloning it.
    fn enter(&mut self) -> Self::Entered<'_>;
}

pin_project! {
    /// Keeps a [`Scope`] entered for every poll of a future or body, **and for its drop**.
    ///
    /// A stream may log in its `Drop` (a closed database cursor, a cancelled generator). If the client disconnected,
    /// this is often the only log line, so it must have the context too.
    pub struct Scoped<T, S: Scope> {
        // `None` only while this is being dropped.
        #[pin]
        inner: Option<T>,
        scope: S,
    }

    impl<T, S: Scope> PinnedDrop for Scoped<T, S> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.scope.enter();
            this.inner.set(None);
        }
    }
}

impl<T, S: Scope> Scoped<T, S> {
    /// Runs `inner` in `scope`.
    pub fn new(inner: T, scope: S) -> Self {
        Self {
            inner: Some(inner),
            scope,
        }
    }

    /// The scope.
    pub fn scope(&self) -> &S {
        &self.scope
    }
}

impl<F: Future, S: Scope> Future for Scoped<F, S> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.scope.enter();
        match this.inner.as_pin_mut() {
            Some(inner) => inner.poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<B: Body, S: Scope> Body for Scoped<B, S> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let _entered = this.scope.enter();
        match this.inner.as_pin_mut() {
            Some(inner) => inner.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl<T: fmt::Debug, S: Scope> fmt::Debug for Scoped<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
