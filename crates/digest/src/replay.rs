//! Polls the start of a body before the head is sent, and replays it.

use std::{collections::VecDeque, task::Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tower_stream_core::{
    BoxError,
    wrapper::{Hints, Piece, Polled, Source, StageContext, at_least, longer_by},
};

/// The most data that one poll returns, and thus hashes: a quarter of a millisecond at 0.7 to 1 GB/s. Hashing a 16 MiB
/// frame in one poll would block the worker thread, and every stream on it, for some 20 ms.
pub(crate) const SLICE: usize = 256 * 1024;

/// Limit for the number of frames polled ahead, however small, because all of them are polled in one poll.
const MAX_AHEAD: usize = 1024;

/// Replays the frames that were polled ahead, then passes on the rest of the body. Longer frames are split into slices
/// of at most [`SLICE`], without copying.
#[derive(Default)]
pub(crate) struct Replay {
    /// The next data: the first frame that was polled ahead, or the rest of a long frame.
    next: Option<Bytes>,
    /// More data that was polled ahead. Stored as `Bytes`, which is smaller than `Piece`.
    ahead: VecDeque<Bytes>,
    /// Total length of `next` and `ahead`.
    held: u64,
    /// Trailers or an error after the data. Boxed because both are rare.
    last: Option<Box<Result<Frame<Bytes>, BoxError>>>,
    /// The body has ended.
    done: bool,
}

/// The result of polling ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// The body ended.
    Whole,
    /// The body failed.
    Failed,
    /// The body is longer than the bound.
    Open,
    /// The body is pending.
    Pending,
}

impl Replay {
    /// Polls until the end, an error, the first `Pending`, or `bound` bytes. As for a server, the body also ends at its
    /// declared length, or when it reports `is_end_stream`.
    pub(crate) fn look_ahead(
        &mut self,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
        bound: u64,
        declared: Option<u64>,
    ) -> Ahead {
        loop {
            if self.held > bound {
                return Ahead::Open;
            }
            self.done |= up.is_end_stream();
            if self.done || declared.is_some_and(|length| self.held >= length) {
                return Ahead::Whole;
            }
            if self.ahead.len() >= MAX_AHEAD {
                return Ahead::Open;
            }
            match up.poll(cx) {
                Poll::Pending => return Ahead::Pending,
                Poll::Ready(None) => self.done = true,
                Poll::Ready(Some(Ok(Piece::Data { data, last }))) => {
                    self.held += data.len() as u64;
                    self.done = last;
                    match &mut self.next {
                        Some(_) => self.ahead.push_back(data),
                        none => *none = Some(data),
                    }
                }
                Poll::Ready(Some(Ok(Piece::Other(last)))) => {
                    self.done = last.is_trailers();
                    self.last = Some(Box::new(Ok(*last)));
                    if !self.done {
                        // A frame that is neither data nor trailers.
                        return Ahead::Open;
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.done = true;
                    self.last = Some(Box::new(Err(error)));
                    return Ahead::Failed;
                }
            }
        }
    }

    /// The data that was polled ahead.
    pub(crate) fn data_ahead(&self) -> impl Iterator<Item = &Bytes> {
        self.next.iter().chain(&self.ahead)
    }

    /// The trailers, if they were polled ahead.
    pub(crate) fn trailers_ahead(&self) -> Option<&http::HeaderMap> {
        (**self.last.as_ref()?).as_ref().ok()?.trailers_ref()
    }

    /// The error, if one was polled ahead.
    pub(crate) fn error_ahead(&self) -> Option<&BoxError> {
        self.last.as_ref()?.as_ref().as_ref().err()
    }

    /// Returns whether the next poll returns something that was polled ahead.
    #[inline]
    pub(crate) fn is_holding(&self) -> bool {
        self.next.is_some() || !self.ahead.is_empty() || self.last.is_some()
    }

    /// Returns what was polled ahead. On `None`, poll the body and pass the result to [`Self::on_polled`].
    #[inline]
    pub(crate) fn on_poll(&mut self) -> Option<Polled> {
        (self.done || self.is_holding()).then(|| Poll::Ready(self.replay()))
    }

    #[inline]
    pub(crate) fn on_polled(&mut self, polled: &mut Polled) {
        if let Poll::Ready(Some(Ok(Piece::Data { data, last }))) = polled {
            self.done = *last;
            if data.len() > SLICE {
                let data = std::mem::take(data);
                *polled = Poll::Ready(Some(Ok(self.slice(data))));
            }
        }
    }

    fn replay(&mut self) -> Option<Result<Piece, BoxError>> {
        let data = self.next.take().or_else(|| self.ahead.pop_front());
        if let Some(data) = data {
            if self.ahead.is_empty() {
                // Free the buffer: the stream may continue for hours and does not need it again.
                self.ahead = VecDeque::new();
            }
            self.held -= data.len() as u64;
            return Some(Ok(self.slice(data)));
        }
        let last = self.last.take()?;
        Some(last.map(|frame| Piece::Other(Box::new(frame))))
    }

    /// Keeps the part of this data that is too long for one poll.
    fn slice(&mut self, mut data: Bytes) -> Piece {
        if data.len() > SLICE {
            let rest = data.split_off(SLICE);
            self.held += rest.len() as u64;
            self.next = Some(rest);
        }
        let last = self.done && !self.is_holding();
        Piece::Data { data, last }
    }

    pub(crate) fn size_hint(&self, up: &impl Hints) -> SizeHint {
        let inner = up.size_hint();
        match self.last {
            None => longer_by(self.held, &inner),
            // hyper turns an exact hint into a Content-Length. An h1 server would then drop the trailers, and not poll
            // for the error.
            Some(_) => at_least(inner.lower().saturating_add(self.held)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tower_stream_core::Exchange;

    use super::*;

    /// Returns these pieces; after the last one, reports its own size hint.
    struct Pieces(VecDeque<Result<Piece, BoxError>>);

    impl Hints for Pieces {
        fn size_hint(&self) -> SizeHint {
            match self.0.len() {
                0 => SizeHint::with_exact(0),
                _ => SizeHint::default(),
            }
        }

        fn is_end_stream(&self) -> bool {
            false
        }
    }

    impl Source for Pieces {
        fn poll(&mut self, _: &mut StageContext<'_, '_>) -> Polled {
            Poll::Ready(self.0.pop_front())
        }

        fn discard(&mut self, _: &mut StageContext<'_, '_>) {
            self.0.clear();
        }
    }

    fn poll(replay: &mut Replay, up: &mut Pieces, cx: &mut StageContext<'_, '_>) -> Polled {
        match replay.on_poll() {
            Some(polled) => polled,
            None => {
                let mut polled = up.poll(cx);
                replay.on_polled(&mut polled);
                polled
            }
        }
    }

    fn with_context<T>(run: impl FnOnce(&mut StageContext<'_, '_>) -> T) -> T {
        let mut exchange = Exchange::new();
        run(&mut StageContext::new(
            &mut Context::from_waker(Waker::noop()),
            &mut exchange,
        ))
    }

    #[test]
    fn an_error_found_ahead_leaves_the_size_open() {
        let pieces = [Ok(Piece::open("abc".into())), Err("disk gone".into())];
        let (mut replay, mut up) = (Replay::default(), Pieces(pieces.into()));
        let ahead = with_context(|cx| replay.look_ahead(&mut up, cx, 100, None));
        assert_eq!(ahead, Ahead::Failed);
        assert_eq!(replay.error_ahead().unwrap().to_string(), "disk gone");
        let hint = replay.size_hint(&up);
        assert_eq!(hint.lower(), 3);
        let exact = hint.exact();
        assert_eq!(exact, None, "as a Content-Length it would hide the error");
    }

    #[test]
    fn what_was_polled_ahead_leaves_no_room_behind() {
        for (count, room) in [(1, false), (100, true)] {
            let pieces = (0..count).map(|_| Ok(Piece::open("abc".into())));
            let (mut replay, mut up) = (Replay::default(), Pieces(pieces.collect()));
            with_context(|cx| {
                assert_eq!(replay.look_ahead(&mut up, cx, 1000, None), Ahead::Whole);
                assert_eq!(replay.ahead.capacity() > 0, room, "{count} frames");
                for left in (0..count).rev() {
                    let Poll::Ready(Some(Ok(piece))) = poll(&mut replay, &mut up, cx) else {
                        panic!("{left} are left")
                    };
                    assert_eq!(piece.is_last(), left == 0);
                }
                assert!(matches!(poll(&mut replay, &mut up, cx), Poll::Ready(None)));
            });
            assert_eq!((replay.held, replay.ahead.capacity()), (0, 0));
        }
    }

    #[test]
    fn the_last_slice_of_the_last_frame_ends_the_body() {
        let data = Bytes::from(vec![0; 2 * SLICE + 1]);
        let mut up = Pieces([Ok(Piece::Data { data, last: true })].into());
        let mut replay = Replay::default();
        for (len, last) in [(SLICE, false), (SLICE, false), (1, true)] {
            let Poll::Ready(Some(Ok(piece))) = with_context(|cx| poll(&mut replay, &mut up, cx))
            else {
                panic!("a slice")
            };
            assert_eq!((piece.data().unwrap().len(), piece.is_last()), (len, last));
            assert_eq!(replay.is_holding(), !last);
        }
    }
}
