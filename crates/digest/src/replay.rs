//! A body that can be looked into before its head is released.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower_stream_body::BoxError;

/// No poll gives out more than this, so that no poll hashes more: at 0.7 to 1 GB/s it is a quarter of a millisecond.
/// A 16 MiB frame at once would hold the worker, and every stream on it, for some 20 ms.
pub(crate) const SLICE: usize = 256 * 1024;

/// More frames than this are not looked at ahead, however small: it is done in one poll.
const MAX_AHEAD: usize = 1024;

/// Frames that were polled ahead, then the rest of the body; long frames in slices of at most [`SLICE`], none copied.
///
/// The body inside is boxed, for it is polled before the head is released and moves into the response then.
pub(crate) struct Replay<B> {
    ahead: VecDeque<Result<Frame<Bytes>, BoxError>>,
    ahead_bytes: u64,
    /// what is left of a long frame
    long: Bytes,
    inner: Pin<Box<B>>,
    done: bool,
}

/// What looking ahead found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// All of the body, as far as it will be sent.
    Whole,
    /// An error.
    Failed,
    /// It is longer than the bound.
    Open,
    /// It is pending, within the bound.
    Pending,
}

impl<B> Replay<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(inner: B) -> Self {
        Self {
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            long: Bytes::new(),
            inner: Box::pin(inner),
            done: false,
        }
    }

    /// Polls until the end, an error, the first `Pending` or `bound` bytes. The end is also where a server stops polling:
    /// at the declared length, or where the body says that it has ended.
    pub(crate) fn look_ahead(
        &mut self,
        cx: &mut Context<'_>,
        bound: u64,
        declared: Option<u64>,
    ) -> Ahead {
        loop {
            if self.ahead_bytes > bound {
                return Ahead::Open;
            }
            if self.done
                || self.inner.is_end_stream()
                || declared.is_some_and(|length| self.ahead_bytes >= length)
            {
                return Ahead::Whole;
            }
            if self.ahead.len() >= MAX_AHEAD {
                return Ahead::Open;
            }
            match self.inner.as_mut().poll_frame(cx) {
                Poll::Pending => return Ahead::Pending,
                Poll::Ready(None) => self.done = true,
                Poll::Ready(Some(Ok(frame))) => {
                    self.ahead_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                    self.done = frame.is_trailers();
                    self.ahead.push_back(Ok(frame));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.done = true;
                    self.ahead.push_back(Err(error.into()));
                    return Ahead::Failed;
                }
            }
        }
    }

    /// The data that was polled ahead.
    pub(crate) fn data_ahead(&self) -> impl Iterator<Item = &Bytes> {
        self.ahead
            .iter()
            .filter_map(|frame| frame.as_ref().ok()?.data_ref())
    }

    /// The trailers, when they were polled ahead.
    pub(crate) fn trailers_ahead(&self) -> Option<&http::HeaderMap> {
        self.ahead.back()?.as_ref().ok()?.trailers_ref()
    }
}

impl<B> Body for Replay<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = if !this.long.is_empty() {
            Frame::data(std::mem::take(&mut this.long))
        } else if let Some(frame) = this.ahead.pop_front() {
            let frame = frame?;
            this.ahead_bytes -= frame.data_ref().map_or(0, |data| data.len() as u64);
            frame
        } else if this.done {
            return Poll::Ready(None);
        } else {
            match std::task::ready!(this.inner.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    this.done = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    this.done = true;
                    return Poll::Ready(None);
                }
            }
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(mut data) => {
                if data.len() > SLICE {
                    this.long = data.split_off(SLICE);
                }
                Frame::data(data)
            }
            Err(other) => other,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.long.is_empty() && self.ahead.is_empty() && (self.done || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.ahead_bytes + self.long.len() as u64;
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        // an exact hint becomes a Content-Length, and then an h1 server drops trailers, and never asks for an error
        let failed = self.ahead.back().is_some_and(Result::is_err);
        if let (Some(upper), None, false) = (inner.upper(), self.trailers_ahead(), failed) {
            hint.set_upper(upper.saturating_add(held));
        }
        hint.set_lower(inner.lower().saturating_add(held));
        hint
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("ahead", &self.ahead.len())
            .field("long", &self.long.len())
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives some data, then fails; and then knows for sure that nothing more comes.
    struct Failing(u8);

    impl Body for Failing {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            self.0 += 1;
            Poll::Ready(match self.0 {
                1 => Some(Ok(Frame::data(Bytes::from("abc")))),
                2 => Some(Err("disk gone".into())),
                _ => None,
            })
        }

        fn size_hint(&self) -> SizeHint {
            match self.0 {
                0 | 1 => SizeHint::default(),
                _ => SizeHint::with_exact(0),
            }
        }
    }

    #[test]
    fn an_error_found_ahead_leaves_the_size_open() {
        let mut body = Replay::new(Failing(0));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(body.look_ahead(&mut cx, 100, None), Ahead::Failed);
        assert_eq!(body.size_hint().lower(), 3);
        assert_eq!(
            body.size_hint().exact(),
            None,
            "as a Content-Length it would hide the error"
        );
    }
}
