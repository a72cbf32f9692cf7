//! Looking into a body before its head is released.

use std::{collections::VecDeque, task::Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tower_stream_core::{
    BoxError,
    wrapper::{Hints, Piece, Polled, Source, StageContext},
};

/// No poll gives out more than this, so that no poll hashes more: at 0.7 to 1 GB/s it is a quarter of a millisecond.
/// A 16 MiB frame at once would hold the worker, and every stream on it, for some 20 ms.
pub(crate) const SLICE: usize = 256 * 1024;

/// More frames than these are not looked at ahead, however small: it is done in one poll.
const MAX_AHEAD: usize = 1024;

/// Pieces that were polled ahead, then the rest of the body; long frames in slices of at most [`SLICE`], none copied.
#[derive(Default)]
pub(crate) struct Replay {
    /// The next data: the first that was polled ahead, or what is left of a long frame.
    next: Option<Bytes>,
    /// More data that was polled ahead. As `Bytes` and not as pieces, which are larger.
    ahead: VecDeque<Bytes>,
    /// Bytes in both.
    held: u64,
    /// What follows them: trailers or an error. Rare, so boxed.
    last: Option<Box<Result<Frame<Bytes>, BoxError>>>,
    /// The body has no more to give.
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

impl Replay {
    /// Polls until the end, an error, the first `Pending` or `bound` bytes. The end is also where a server stops polling:
    /// at the declared length, or where the body says that it has ended.
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
                        // no kind of frame that is known today
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

    /// The trailers, when they were polled ahead.
    pub(crate) fn trailers_ahead(&self) -> Option<&http::HeaderMap> {
        (**self.last.as_ref()?).as_ref().ok()?.trailers_ref()
    }

    /// The error, when one was found.
    pub(crate) fn error_ahead(&self) -> Option<&BoxError> {
        self.last.as_ref()?.as_ref().as_ref().err()
    }

    /// Whether there is something to give out that was polled already.
    #[inline]
    pub(crate) fn is_holding(&self) -> bool {
        self.next.is_some() || !self.ahead.is_empty() || self.last.is_some()
    }

    /// What was polled already. `None`: the body is to be polled, and the outcome given to [`Self::on_polled`].
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
                // a stream may go on for hours, and needs the room no more
                self.ahead = VecDeque::new();
            }
            self.held -= data.len() as u64;
            return Some(Ok(self.slice(data)));
        }
        let last = self.last.take()?;
        Some(last.map(|frame| Piece::Other(Box::new(frame))))
    }

    /// Keeps what of this data is too long for one poll.
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
        let mut hint = SizeHint::new();
        // an exact hint becomes a Content-Length, and then an h1 server drops trailers, and never asks for an error
        if let (Some(upper), None) = (inner.upper(), &self.last) {
            hint.set_upper(upper.saturating_add(self.held));
        }
        hint.set_lower(inner.lower().saturating_add(self.held));
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use tower_stream_core::Exchange;

    use super::*;

    /// Ready pieces; after the last one it says what is left.
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
