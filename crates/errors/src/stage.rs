//! One response, from the call to its last frame: which bytes may be sent, and what ends it when it fails.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Poll, ready},
};

use bytes::Bytes;
use http::{Version, response::Parts};
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;
use tower_stream_core::{
    BoxError, Cause, Delivery, PlainProblem, Records, StreamKind, chosen_reset,
    wrapper::{
        AfterHead, At, Hints, Piece, Polled, ResponseHead, Source, Stage, StageContext, at_least,
        longer_by,
    },
};

use crate::{
    AfterTail, Tail,
    context::Context,
    layer::SETTLE,
    panic::{Payload, catch, log_dropped},
};

/// What [`ErrorWriterLayer`](crate::ErrorWriterLayer) keeps of one request.
///
/// It gives the pieces of the body inside, then, if that fails or panics, what the writer says. Whole records only are
/// given of a stream whose records are known; a partial one is held until it ends. After its end, or after the failure,
/// the body inside is not polled again; a failed one is dropped before the tail is given.
///
/// # Panics
///
/// A body that is aborted waits a moment first, which needs tokio's timer to be enabled.
pub struct ErrorWriterStage {
    context: Context,
    state: State,
    /// The piece that is returned next, before anything that `state` says.
    stash: Option<Piece>,
    /// The trailers that are returned after `stash`.
    trailers: Option<Box<Frame<Bytes>>>,
    stream: StreamKind,
    records: Records,
    /// Whether this layer may write bytes of its own into the body.
    writable: bool,
    /// Whether the response has no body (HEAD, 204, 304), so that nothing is missing if there is none. Over HTTP/2,
    /// hyper polls the body of a response to HEAD.
    bodiless: bool,
    /// Whether a reset reaches the client whose code the body chooses by its error.
    resets: bool,
    /// The length that the body reported after its first poll, and that the server declares. 0 if it reported none.
    learnt: u64,
    given: u64,
    /// Whether `size_hint` has panicked. The body is then not polled again.
    poisoned: AtomicBool,
}

enum State {
    /// There is no head yet.
    Headless,
    /// The body inside goes on, and nothing waits to be given out.
    Open,
    /// The stash is given out, then the body inside goes on.
    Stashed,
    /// The stash is given out, then nothing more comes.
    Ended,
    /// The stash is given out. When it has had time to be flushed, the body fails with this error, or with ours.
    Settling(Pin<Box<Sleep>>, Option<BoxError>),
    /// The next poll gives this error.
    Failing(BoxError),
}

impl ErrorWriterStage {
    pub(crate) fn new(context: Context) -> Self {
        Self {
            context,
            state: State::Headless,
            stash: None,
            trailers: None,
            stream: StreamKind::Other,
            records: Records::opaque(),
            writable: false,
            bodiless: false,
            resets: false,
            learnt: 0,
            given: 0,
            poisoned: AtomicBool::new(false),
        }
    }

    /// Answers in place of the response, which has failed before its head was sent.
    #[cold]
    fn answer(
        &mut self,
        replaced: Option<&Parts>,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Parts {
        Self::around(Some(self), At::Drop, || up.discard(cx));
        let (parts, data) = self.context.head(replaced).into_parts();
        self.stash = (!data.is_empty()).then_some(Piece::Data { data, last: true });
        self.trailers = None;
        self.records = Records::opaque();
        self.state = State::Ended;
        parts
    }

    fn begin(&mut self, head: &mut ResponseHead, delivery: Delivery) {
        let undeclared = !delivery.is_bodiless() && delivery.declared_length().is_none();
        self.stream = head.stream_kind();
        self.bodiless = delivery.is_bodiless();
        self.resets = !self.bodiless && self.context.request.version >= Version::HTTP_2;
        self.writable = undeclared && head.allows_insertion();
        if self.writable {
            self.records = Records::of(self.stream, self.context.config.hold_cap);
        }
        self.state = State::Open;
    }

    /// Polls the body once before the head is sent. Returns false if the response has failed and its body chose no
    /// reset.
    fn poll_first(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> bool {
        let piece = match self.poll_inner(None, up, cx) {
            Ok(Poll::Ready(Some(piece))) => piece,
            Ok(_) => return true,
            Err(None) => return false,
            Err(chosen) => {
                self.fail(chosen, up, cx);
                return true;
            }
        };
        self.stash = Some(piece);
        if matches!(self.state, State::Open) {
            self.state = State::Stashed;
            // A body that has begun may know its size, which the server then declares.
            let Some(size) = Self::around(Some(self), At::Body, || up.size_hint()) else {
                return false;
            };
            if let (true, Some(left)) = (self.writable, size.exact()) {
                self.learnt = self.given + left;
                self.writable = false;
            }
        }
        true
    }

    /// Called when the inner body has failed and the cause is recorded. Returns what is sent in place of the rest of
    /// the body.
    #[cold]
    fn end(
        &mut self,
        chosen: Option<BoxError>,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Polled {
        self.fail(chosen, up, cx);
        self.poll_stash(cx).unwrap_or(Poll::Ready(None))
    }

    /// Handles what the inner body returned, unless it passes unchanged.
    #[inline(never)]
    fn poll_rest(
        &mut self,
        polled: &mut Polled,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        let given = std::mem::replace(polled, Poll::Pending);
        *polled = match self.poll_inner(Some(given), up, cx) {
            Ok(Poll::Ready(piece)) => {
                // A layer inside may have ended the response. Here its line has the span of the request.
                if piece.as_ref().is_none_or(Piece::is_last) {
                    self.context.log();
                }
                Poll::Ready(piece.map(Ok))
            }
            Ok(Poll::Pending) => Poll::Pending,
            Err(chosen) => self.end(chosen, up, cx),
        };
    }

    /// Polls the inner body until it returns something that may be sent. `first` is the result of a poll that was made
    /// before. `Err` means that the body has failed.
    fn poll_inner(
        &mut self,
        mut first: Option<Polled>,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Result<Poll<Option<Piece>>, Option<BoxError>> {
        loop {
            let polled = match first.take() {
                Some(polled) => polled,
                None if *self.poisoned.get_mut() => return Err(None),
                // All code of the body runs in here, because it may panic.
                None => Self::around(Some(self), At::Body, || up.poll(cx)).ok_or(None)?,
            };
            match polled {
                Poll::Ready(Some(Ok(Piece::Data { data, last }))) => {
                    self.given += data.len() as u64;
                    let last = last && !self.is_short();
                    // A heartbeat is between two records, so no part of a record is held.
                    if cx.is_heartbeat() || self.records.passes(&data) {
                        return Ok(Poll::Ready(Some(Piece::Data { data, last })));
                    }
                    if let Some(data) = self.records.push(data) {
                        let last = last && self.records.held() == 0;
                        return Ok(Poll::Ready(Some(Piece::Data { data, last })));
                    }
                }
                Poll::Ready(Some(Ok(Piece::Other(frame)))) => {
                    return Ok(Poll::Ready(Some(self.other(frame))));
                }
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(None) if self.is_short() => {
                    let cause = Cause::short_body(self.given, self.learnt);
                    cx.exchange.record(cause);
                    self.context.log();
                    return Err(None);
                }
                Poll::Ready(None) => {
                    self.state = State::Ended;
                    let rest = self.records.finish();
                    return Ok(Poll::Ready(
                        rest.map(|data| Piece::Data { data, last: true }),
                    ));
                }
                Poll::Ready(Some(Err(error))) => {
                    let resets = self.resets;
                    let chosen = Self::around(Some(self), At::Body, || failed(error, resets, cx));
                    self.context.log();
                    return Err(chosen.flatten());
                }
            }
        }
    }

    /// Returns whether the body has returned fewer bytes than the server declared.
    #[inline]
    fn is_short(&self) -> bool {
        self.given < self.learnt
    }

    /// Trailers, or a frame of a kind not known here. No record goes on behind trailers, so one that is held goes first.
    #[cold]
    fn other(&mut self, frame: Box<Frame<Bytes>>) -> Piece {
        match self.records.finish() {
            Some(record) => {
                self.trailers = Some(frame);
                self.state = State::Stashed;
                Piece::open(record)
            }
            None => Piece::Other(frame),
        }
    }

    /// The body inside has failed: drops it, now that the cause is recorded, and chooses what comes in its place.
    #[cold]
    fn fail(
        &mut self,
        chosen: Option<BoxError>,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        Self::around(Some(self), At::Drop, || up.discard(cx));
        // The held part of a record is never sent.
        self.records.discard();
        // After the last record of its dialect, a response is complete, whatever happens to its body.
        let complete = cx.exchange.is_terminal() && cx.exchange.cause().is_none();
        if self.bodiless || complete {
            self.state = State::Ended;
            return;
        }
        let settling = |settle, error| State::Settling(Box::pin(tokio::time::sleep(settle)), error);
        if let Some(error) = chosen {
            self.state = match self.given {
                0 => State::Failing(error),
                _ => settling(SETTLE, Some(error)),
            };
            return;
        }
        let appends = self.writable && self.records.is_clean() && !cx.exchange.is_terminal();
        let tail = if appends {
            self.context.tail(self.stream)
        } else {
            Tail::Abort
        };
        let (after, settle) = match self.context.config.after_tail {
            AfterTail::Abort { settle } => (true, settle),
            AfterTail::End => (false, SETTLE),
        };
        self.state = match tail {
            Tail::Data(data) if !data.is_empty() => {
                self.stash = Some(Piece::Data { data, last: !after });
                match after {
                    true => settling(settle, None),
                    false => State::Ended,
                }
            }
            Tail::Trailers(trailers) if !trailers.is_empty() => {
                self.stash = Some(Piece::trailers(trailers));
                State::Ended
            }
            // With an empty tail, the failed response would look complete, so it is aborted.
            Tail::Abort | Tail::Data(_) | Tail::Trailers(_) => settling(settle, None),
        };
    }

    /// Returns the pieces that wait, then the end or failure after them. `None` means that the inner body is polled
    /// again.
    fn poll_stash(&mut self, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        let next = self.stash.take();
        if let Some(piece) = next.or_else(|| self.trailers.take().map(Piece::Other)) {
            if matches!(self.state, State::Stashed) && self.trailers.is_none() {
                self.state = State::Open;
            }
            return Some(Poll::Ready(Some(Ok(piece))));
        }
        if matches!(self.state, State::Stashed | State::Open | State::Headless) {
            self.state = State::Open;
            return None;
        }
        Some(self.poll_end(cx))
    }

    fn poll_end(&mut self, cx: &mut StageContext<'_, '_>) -> Polled {
        if let State::Settling(sleep, _) = &mut self.state {
            ready!(sleep.as_mut().poll(cx.task));
        }
        Poll::Ready(match std::mem::replace(&mut self.state, State::Ended) {
            State::Settling(_, Some(error)) | State::Failing(error) => Some(Err(error)),
            State::Settling(_, None) => Some(Err(self.context.cause().into())),
            _ => None,
        })
    }

    /// A panic of what is inside.
    #[cold]
    fn caught(&self, at: At, payload: Payload) {
        match (at, &self.state) {
            (At::Drop, State::Headless) => log_dropped("a handler future", payload),
            (At::Drop, _) => log_dropped("a response body", payload),
            (At::Call | At::Future | At::Body, _) => self.context.panicked(payload),
        }
    }
}

/// Records and logs the error of a body. Its `Display` and its drop are foreign code and may panic. Returns the error
/// if it chooses the code of a reset, with which the body then fails: see [`chosen_reset`].
#[cold]
fn failed(error: BoxError, resets: bool, cx: &mut StageContext<'_, '_>) -> Option<BoxError> {
    if cx.exchange.is_terminal() {
        let error = Cause::of(&*error);
        tracing::info!(
            target: "tower_stream_errors",
            kind = error.kind().as_str(),
            error = error.message(),
            "the body failed after the last record of the response"
        );
    }
    cx.exchange.record_with(|| Cause::of(&*error));
    (resets && chosen_reset(&*error).is_some()).then_some(error)
}

impl Stage for ErrorWriterStage {
    #[inline(always)]
    fn around<T>(stage: Option<&mut Self>, at: At, run: impl FnOnce() -> T) -> Option<T> {
        match (catch(run), stage) {
            (Ok(value), _) => Some(value),
            (Err(payload), Some(stage)) => {
                stage.caught(at, payload);
                None
            }
            (Err(payload), None) => payload.resume(),
        }
    }

    fn on_caught(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Parts> {
        Some(self.answer(None, up, cx))
    }

    fn on_head(
        &mut self,
        head: &mut ResponseHead,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<AfterHead> {
        self.context.follow(cx.exchange);
        let plain = head.extensions.get::<PlainProblem>().is_some();
        if plain
            && head.extensions.remove::<PlainProblem>().is_some()
            && cx.exchange.cause().is_some()
        {
            **head = self.answer(Some(head), up, cx);
            return Poll::Ready(AfterHead::Stay);
        }
        let Some((size, ended)) = Self::around(Some(self), At::Body, || {
            (up.size_hint(), up.is_end_stream())
        }) else {
            **head = self.answer(Some(head), up, cx);
            return Poll::Ready(AfterHead::Stay);
        };
        let method = &self.context.request.method;
        let delivery = head.delivery(method, &size);
        self.begin(head, delivery);
        let first_poll = self.context.config.first_poll && !self.bodiless && !ended;
        if first_poll && !self.poll_first(up, cx) {
            **head = self.answer(Some(head), up, cx);
        }
        Poll::Ready(AfterHead::Stay)
    }

    #[inline(always)]
    fn on_poll(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Option<Polled> {
        if !matches!(self.state, State::Open)
            && let Some(polled) = self.poll_stash(cx)
        {
            return Some(polled);
        }
        self.poisoned.get_mut().then(|| self.end(None, up, cx))
    }

    #[inline]
    fn on_caught_body(&mut self, up: &mut impl Source, cx: &mut StageContext<'_, '_>) -> Polled {
        self.end(None, up, cx)
    }

    #[inline(always)]
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) {
        // The result of nearly every poll passes unchanged.
        match polled {
            Poll::Ready(Some(Ok(Piece::Data { data, last: false })))
                if self.learnt == 0 && self.records.passes(data) =>
            {
                self.given += data.len() as u64;
            }
            Poll::Pending => {}
            Poll::Ready(_) => self.poll_rest(polled, up, cx),
        }
    }

    #[inline]
    fn has_more(&self) -> bool {
        match self.state {
            State::Open => self.records.held() > 0 || self.poisoned.load(Ordering::Relaxed),
            State::Headless | State::Ended => self.stash.is_some() || self.trailers.is_some(),
            State::Stashed | State::Settling(..) | State::Failing(_) => true,
        }
    }

    fn size_hint(&self, up: &impl Hints) -> SizeHint {
        let stashed = self.stash.as_ref().and_then(Piece::data);
        let ours = stashed.map_or(0, Bytes::len) + self.records.held();
        if matches!(self.state, State::Ended) {
            return SizeHint::with_exact(ours as u64);
        }
        let inside = matches!(self.state, State::Open | State::Stashed | State::Headless);
        if !inside || self.poisoned.load(Ordering::Relaxed) {
            return SizeHint::default();
        }
        let size = match catch(|| up.size_hint()) {
            Ok(size) => size,
            Err(payload) => {
                // The next poll ends the response.
                self.poisoned.store(true, Ordering::Relaxed);
                self.context.panicked(payload);
                return SizeHint::default();
            }
        };
        match self.writable {
            true => at_least(size.lower().saturating_add(ours as u64)),
            false => longer_by(ours as u64, &size),
        }
    }
}

impl fmt::Debug for ErrorWriterStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Headless => "headless",
            State::Open | State::Stashed => "open",
            State::Ended => "ended",
            State::Settling(..) | State::Failing(_) => "failing",
        };
        f.debug_struct("ErrorWriterStage")
            .field("state", &state)
            .field("stream", &self.stream)
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}
