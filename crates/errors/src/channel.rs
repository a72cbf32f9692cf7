//! [`channel`]: a body fed by a task, which must declare when it has finished.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{mpsc, oneshot};
use tower_stream_core::{BoxError, Cause, FaultKind};

/// Creates a body, and the sender that feeds it from another task.
///
/// A body behind an ordinary channel ends cleanly when its sender is dropped, so a producer that panicked or returned
/// early looks as if it had finished: the body is silently truncated. Here the sender must call [`Sender::finish`]. If
/// it is dropped without, the body fails with a [`Cause`] of kind `Unfinished`, or `Panic` if a panic dropped it.
///
/// The body buffers at most `capacity` frames; 0 is treated as 1.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::BodyExt;
/// use tower_stream_errors::channel;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (mut sender, body) = channel::<Bytes>(16);
/// tokio::spawn(async move {
///     for n in 0..3 {
///         // an error means that the client has disconnected
///         sender.send(format!("{n}\n")).await?;
///     }
///     sender.finish();
///     Ok::<_, tower_stream_errors::Closed>(())
/// });
/// assert_eq!(body.collect().await.unwrap().to_bytes(), "0\n1\n2\n");
///
/// let (mut sender, body) = channel::<Bytes>(16);
/// tokio::spawn(async move {
///     let _ = sender.send("half").await;
///     // returns without finish()
/// });
/// assert!(body.collect().await.is_err());
/// # }
/// ```
#[must_use]
pub fn channel<D>(capacity: usize) -> (Sender<D>, ChannelBody<D>) {
    let (frames, queue) = mpsc::channel(capacity.max(1));
    let (end, ended) = oneshot::channel();
    let sender = Sender {
        end: Some(end),
        frames,
    };
    let body = ChannelBody {
        queue,
        ended,
        over: false,
    };
    (sender, body)
}

/// How the producer ended, if it said so.
#[derive(Debug)]
enum End {
    Finished,
    Failed(BoxError),
    Panicked,
}

/// The sending half of [`channel`].
pub struct Sender<D = Bytes> {
    // `None` only after it was used.
    end: Option<oneshot::Sender<End>>,
    frames: mpsc::Sender<Frame<D>>,
}

impl<D> Sender<D> {
    /// Sends data as one frame. Waits while the body has `capacity` frames.
    ///
    /// # Errors
    ///
    /// Returns [`Closed`] if the body has been dropped: the client has disconnected.
    pub async fn send(&mut self, data: impl Into<D>) -> Result<(), Closed> {
        let frame = Frame::data(data.into());
        self.frames.send(frame).await.map_err(|_| Closed(()))
    }

    /// Sends trailers. Only [`finish`](Self::finish) may follow.
    ///
    /// # Errors
    ///
    /// Returns [`Closed`] if the body has been dropped.
    pub async fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), Closed> {
        let frame = Frame::trailers(trailers);
        self.frames.send(frame).await.map_err(|_| Closed(()))
    }

    /// Ends the body normally, after everything that was sent.
    pub fn finish(mut self) {
        self.end(End::Finished);
    }

    /// Ends the body with this error, after everything that was sent.
    pub fn fail(mut self, error: impl Into<BoxError>) {
        self.end(End::Failed(error.into()));
    }

    /// Returns whether the body has been dropped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.frames.is_closed()
    }

    /// Waits until the body is dropped. Use it to stop work for a client that has disconnected.
    pub async fn closed(&self) {
        self.frames.closed().await;
    }

    fn end(&mut self, end: End) {
        if let Some(sender) = self.end.take() {
            let _ = sender.send(end);
        }
    }
}

impl<D> Drop for Sender<D> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.end(End::Panicked);
        }
    }
}

impl<D> fmt::Debug for Sender<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// The body of [`channel`]. It has no size hint.
pub struct ChannelBody<D = Bytes> {
    queue: mpsc::Receiver<Frame<D>>,
    ended: oneshot::Receiver<End>,
    over: bool,
}

impl<D: Buf> Body for ChannelBody<D> {
    type Data = D;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<D>, BoxError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(frame) = ready!(self.queue.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(frame)));
        }
        let end = ready!(Pin::new(&mut self.ended).poll(cx));
        self.over = true;
        let error = match end {
            Ok(End::Finished) => return Poll::Ready(None),
            Ok(End::Failed(error)) => error,
            Ok(End::Panicked) => {
                let message = "the task that feeds the body panicked";
                Cause::new(FaultKind::Panic, message).into()
            }
            Err(_) => {
                let message = "the sender of the body was dropped without finish()";
                Cause::new(FaultKind::Unfinished, message).into()
            }
        };
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl<D> fmt::Debug for ChannelBody<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelBody")
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

/// The body of a [`Sender`] has been dropped: the client has disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed(());

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body is gone, nobody reads what is sent: stop producing")
    }
}

impl std::error::Error for Closed {}
