//! A body that can be looked into before its head is released.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower_stream_core::BoxError;

/// No poll gives out more than this, so that no poll hashes more: at 0.7 to 1 GB/s it is a quarter of a millisecond.
/// A 16 MiB frame at once would hold the worker, and every stream on it, for some 20 ms.
pub(crate) const SLICE: usize = 256 * 1024;

/// More frames than these are not looked at ahead, however small: it is done in one poll.
const MAX_AHEAD: usize = 1024;

/// Frames that were polled ahead, then the rest of the body; long frames in slices of at most [`SLICE`], none copied.
///
/// The body inside is boxed, for it is polled before the head is released and moves into the response then.
pub(crate) struct Replay<B> {
    /// The next data: the first that was polled ahead, or what is left of a long frame.
    next: Option<Bytes>,
    /// More data that was polled ahead. As `Bytes` and not as frames, which have three times the size.
    ahead: VecDeque<Bytes>,
    /// Bytes in both.
    held: u64,
    /// What follows them: trailers or an error. Rare, so boxed.
    last: Option<Box<Result<Frame<Bytes>, BoxError>>>,
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
            next: None,
            ahead: VecDeque::new(),
            held: 0,
            last: None,
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
            if self.held > bound {
                return Ahead::Open;
            }
            if self.done
                || self.inner.is_end_stream()
                || declared.is_some_and(|length| self.held >= length)
            {
                return Ahead::Whole;
            }
            if self.ahead.len() >= MAX_AHEAD {
                return Ahead::Open;
            }
            match self.inner.as_mut().poll_frame(cx) {
                Poll::Pending => return Ahead::Pending,
                Poll::Ready(None) => self.done = true,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.held += data.len() as u64;
                        match &mut self.next {
                            Some(_) => self.ahead.push_back(data),
                            none => *none = Some(data),
                        }
                    }
                    Err(last) => {
                        self.done = last.is_trailers();
                        self.last = Some(Box::new(Ok(last)));
                        if !self.done {
                            // no kind of frame that is known today
                            return Ahead::Open;
                        }
                    }
                },
                Poll::Ready(Some(Err(error))) => {
                    self.done = true;
                    self.last = Some(Box::new(Err(error.into())));
                    return Ahead::Failed;
                }
            }
        }
    }

    /// The data that was polled ahead.
    pub(crate) fn data_ahead(&self) -> impl Iterator<Item = &Bytes> {
        self.next.iter().chain(&self.ahead)
    }

    /// The trailers, when they were polled ahead.
    pub(crate) fn trailers_ahead(&self) -> Option<&http::HeaderMap> {
        (**self.last.as_ref()?).as_ref().ok()?.trailers_ref()
    }

    /// The next data that was polled ahead.
    fn take_data(&mut self) -> Option<Bytes> {
        if let Some(data) = self.next.take() {
            return Some(data);
        }
        let data = self.ahead.pop_front()?;
        if self.ahead.is_empty() {
            // a stream may go on for hours, and needs the room no more
            self.ahead = VecDeque::new();
        }
        Some(data)
    }

    /// Keeps what of this data is too long for one poll.
    #[inline]
    fn slice(&mut self, mut data: Bytes) -> Bytes {
        if data.len() > SLICE {
            let rest = data.split_off(SLICE);
            self.held += rest.len() as u64;
            self.next = Some(rest);
        }
        data
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
        if let Some(data) = self.take_data() {
            self.held -= data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(self.slice(data)))));
        }
        if let Some(last) = self.last.take() {
            return Poll::Ready(Some(*last));
        }
        if self.done {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.inner.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(data) => Frame::data(self.slice(data)),
                Err(other) => other,
            })),
            Some(Err(error)) => {
                self.done = true;
                Some(Err(error.into()))
            }
            None => {
                self.done = true;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none()
            && self.ahead.is_empty()
            && self.last.is_none()
            && (self.done || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        // an exact hint becomes a Content-Length, and then an h1 server drops trailers, and never asks for an error
        if let (Some(upper), None) = (inner.upper(), &self.last) {
            hint.set_upper(upper.saturating_add(self.held));
        }
        hint.set_lower(inner.lower().saturating_add(self.held));
        hint
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("held", &self.held)
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
    #[test]
    fn what_was_polled_ahead_leaves_no_room_behind() {
        use tower_stream_core::mock::{MockBody, data};

        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (frames, room) in [(1, false), (100, true)] {
            let mut body = Replay::new(MockBody::new((0..frames).map(|_| data("abc"))));
            assert_eq!(body.look_ahead(&mut cx, 1000, None), Ahead::Whole);
            assert_eq!(body.ahead.capacity() > 0, room, "{frames} frames");
            for _ in 0..frames {
                assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
            }
            assert_eq!((body.held, body.ahead.capacity()), (0, 0));
            assert!(body.is_end_stream());
        }
    }
}
