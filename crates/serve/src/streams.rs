//! The streams of an HTTP/2 connection, and how fast the client reads each of them.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tower_stream_core::{Cause, drop_for, wrapper::longer_by};

use crate::{
    activity::{Activity, Open},
    alarm::{Alarm, Clock, Deadline},
    connection::RequestPart,
    pace::Pace,
    settings::Settings,
};

/// The most that a body gives hyper at a time, in bytes. hyper passes a whole chunk to h2 as soon as the client has
/// room for one byte of it, so a client that stops reading costs this much memory, and not the size of a chunk.
const PIECE: usize = 16 * 1024;

/// The streams of one connection, and the executor that spawns them.
#[derive(Debug)]
pub(crate) struct Streams {
    activity: Arc<Activity>,
    has_stall_guard: bool,
    /// The guard of the request that hyper spawns next.
    next: Mutex<Option<Arc<StreamGuard>>>,
    /// How many pieces the client has taken, of all streams.
    taken: AtomicU64,
    /// `taken` when a stream last stalled.
    taken_at_stall: AtomicU64,
    /// Why the connection is aborted, if it is.
    aborted: OnceLock<Cause>,
    stuck: Notify,
}

/// What a stream and its response body share. One task runs both.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    streams: Arc<Streams>,
    pace: Pace,
    /// The size of the last piece; 0 if hyper has asked for the next one, which shows that the client took it.
    piece: AtomicUsize,
    /// [`Pace::waiting`] of the connection when the last piece was given.
    given_in: AtomicU64,
}

impl Streams {
    pub(crate) fn new(activity: Arc<Activity>, settings: &Settings) -> Self {
        Self {
            activity,
            has_stall_guard: settings.has_stall_guard(),
            next: Mutex::default(),
            taken: AtomicU64::new(0),
            taken_at_stall: AtomicU64::new(u64::MAX),
            aborted: OnceLock::new(),
            stuck: Notify::new(),
        }
    }

    /// Creates the guard of a request, if the server has one. hyper spawns its stream next.
    pub(crate) fn guard(self: &Arc<Self>) -> Option<Arc<StreamGuard>> {
        if !self.has_stall_guard {
            return None;
        }
        let guard = Arc::new(StreamGuard {
            streams: Arc::clone(self),
            pace: self.activity.writes().of_pieces(PIECE),
            piece: AtomicUsize::new(0),
            given_in: AtomicU64::new(0),
        });
        *self.next.lock() = Some(Arc::clone(&guard));
        Some(guard)
    }

    /// Waits until the client reads none of the streams.
    pub(crate) async fn stuck(&self) -> Cause {
        loop {
            self.stuck.notified().await;
            if let Some(cause) = self.aborted.get() {
                return cause.clone();
            }
        }
    }

    /// The connection is dropped next, for this cause.
    pub(crate) fn abort(&self, cause: Cause) {
        let _ = self.aborted.set(cause);
    }

    /// A stream has stalled, while `taken` had this value all the time.
    ///
    /// The client may have stopped reading this stream only. If it has taken nothing since another stream stalled, or
    /// if there is no other stream, it has stopped reading the connection: its window is used up.
    fn stalled(&self, taken: u64, cause: Cause) {
        if self.taken.load(Relaxed) != taken {
            return;
        }
        let before = self.taken_at_stall.swap(taken, Relaxed);
        if before == taken || self.activity.open() == 1 {
            self.abort(cause);
            self.stuck.notify_one();
        }
    }
}

impl StreamGuard {
    /// Called when hyper asks for the next piece, which shows that the client has taken the last one.
    #[inline]
    fn asked(&self) {
        let piece = self.piece.load(Relaxed);
        if piece > 0 {
            self.piece.store(0, Relaxed);
            self.streams.taken.fetch_add(1, Relaxed);
            self.pace.takes(piece);
        }
    }

    #[inline]
    fn gives(&self, bytes: usize) {
        self.piece.store(bytes, Relaxed);
        let waiting = self.streams.activity.writes().waiting();
        self.given_in.store(waiting, Relaxed);
    }

    /// Whether bytes of this stream wait on a connection that is aborted.
    fn has_bytes_left(&self) -> bool {
        let waiting = self.streams.activity.writes().waiting();
        // The kernel has taken nothing since this piece was given, although h2 may have.
        let given_since = waiting > 0 && self.given_in.load(Relaxed) == waiting;
        self.piece.load(Relaxed) > 0 || given_since
    }
}

/// The executor of an HTTP/2 connection. A stream is open until its response has been sent, and its tunnel closed.
#[derive(Clone, Debug)]
pub(crate) struct Spawn(pub(crate) Arc<Streams>);

impl<F> Executor<F> for Spawn
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let open = self.0.activity.opens();
        let guard = self.0.next.lock().take();
        tokio::spawn(OpenStream {
            future: Some(future),
            guard,
            taken: 0,
            alarm: None,
            _open: open,
        });
    }
}

pin_project! {
    /// A stream. Its future contains the response body, which is dropped as soon as the client has stopped reading.
    struct OpenStream<F> {
        #[pin]
        future: Option<F>,
        guard: Option<Arc<StreamGuard>>,
        // `Streams::taken` when the piece began to wait that waits now.
        taken: u64,
        alarm: Option<Alarm<StreamGuard>>,
        _open: Open,
    }
}

impl Deadline for StreamGuard {
    type Late = Cause;

    fn clock(&self) -> Clock {
        self.pace.clock()
    }

    fn deadline(&self) -> Option<u64> {
        self.pace.deadline()
    }

    fn late(&self) -> Option<Cause> {
        self.pace.late()
    }
}

impl<F: Future> Future for OpenStream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Ready(());
        };
        let Some(guard) = this.guard else {
            return future.poll(cx).map(drop);
        };
        // Before the future sees that the connection is gone, and drops the body for that reason.
        if let Some(cause) = guard.streams.aborted.get()
            && guard.has_bytes_left()
        {
            drop_for(cause.clone(), || this.future.set(None));
            return Poll::Ready(());
        }
        if future.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // Nothing waits for the client: the body has to give the next frame.
        if guard.piece.load(Relaxed) == 0 {
            return Poll::Pending;
        }
        if guard.pace.waiting() == 0 {
            *this.taken = guard.streams.taken.load(Relaxed);
            guard.pace.waits();
        }
        let alarm = (this.alarm).get_or_insert_with(|| Alarm::new(Arc::clone(guard)));
        let cause = ready!(Pin::new(alarm).poll(cx));
        tracing::debug!("stream reset: {}", cause.message());
        drop_for(cause.clone(), || this.future.set(None));
        guard.streams.stalled(*this.taken, cause);
        Poll::Ready(())
    }
}

pin_project! {
    /// A response body. It tells its connection when it ends, and its HTTP/2 stream when hyper takes data.
    pub(crate) struct GuardedBody<B> {
        #[pin]
        inner: B,
        // The part of the last frame that has not been given yet.
        rest: Option<Bytes>,
        // After `inner`, whose end is part of the response.
        part: RequestPart,
    }
}

impl<B> GuardedBody<B> {
    pub(crate) fn new(inner: B, part: RequestPart) -> Self {
        Self {
            inner,
            rest: None,
            part,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for GuardedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let Some(guard) = this.part.guard() else {
            return this.inner.poll_frame(cx);
        };
        guard.asked();
        let mut polled = match this.rest.take() {
            None => this.inner.poll_frame(cx),
            Some(rest) => Poll::Ready(Some(Ok(Frame::data(rest)))),
        };
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(data) = frame.data_mut()
            && !data.is_empty()
        {
            if data.len() > PIECE {
                *this.rest = Some(data.split_off(PIECE));
            }
            guard.gives(data.len());
        }
        polled
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.inner.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let size = self.inner.size_hint();
        match &self.rest {
            None => size,
            Some(rest) => longer_by(rest.len() as u64, &size),
        }
    }
}
