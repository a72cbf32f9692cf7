//! Following one body: what of it may be given out, and what ends it when it fails.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Version, response::Parts};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use tower_stream_core::{
    BoxError, Cause, Delivery, Records, StreamKind, allows_insertion, chosen_reset,
};

use crate::{
    AfterTail, Tail,
    case::Case,
    layer::SETTLE,
    panic::{Payload, catch},
};

#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) case: Case,
    stream: StreamKind,
    records: Records,
    /// the head leaves room for bytes that the inner body did not give
    writable: bool,
    /// no byte is due, so nothing is missing when there is none; h2 asks the body of a HEAD all the same
    bodiless: bool,
    /// the declared length, or [`UNDECLARED`]
    expected: u64,
    given: u64,
    /// `size_hint` or `is_end_stream` panicked: the body is not to be touched again
    poisoned: AtomicBool,
    /// what the body said of itself after its last frame
    inner_ended: bool,
    stash: Stash,
    phase: Phase,
}

/// A frame that waits to be given out.
#[derive(Debug)]
enum Stash {
    Empty,
    Data(Bytes),
    /// Trailers, or a frame of a kind not known here. Boxed: it has over 100 bytes, and nearly no stream has any.
    Other(Box<Frame<Bytes>>),
    /// Both: the first poll gave an unended record and the trailers behind it.
    DataThen(Box<(Bytes, Frame<Bytes>)>),
}

impl Stash {
    #[inline]
    fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    fn take(&mut self) -> Option<Frame<Bytes>> {
        match std::mem::replace(self, Self::Empty) {
            Self::Empty => None,
            Self::Data(data) => Some(Frame::data(data)),
            Self::Other(frame) => Some(*frame),
            Self::DataThen(both) => {
                let (data, then) = *both;
                *self = Self::Other(Box::new(then));
                Some(Frame::data(data))
            }
        }
    }

    /// Puts a frame in front of what waits already.
    fn put_first(&mut self, frame: Frame<Bytes>) {
        *self = match (frame.into_data(), self.take()) {
            (Ok(data), Some(then)) => Self::DataThen(Box::new((data, then))),
            (Ok(data), None) => Self::Data(data),
            // nothing is behind trailers
            (Err(other), _) => Self::Other(Box::new(other)),
        };
    }

    /// How many bytes of data wait.
    #[inline]
    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::DataThen(both) => both.0.len(),
            Self::Empty | Self::Other(_) => 0,
        }
    }
}

/// No length is declared: more bytes than a body can have.
const UNDECLARED: u64 = u64::MAX;

#[derive(Debug)]
enum Phase {
    /// The inner body goes on.
    Open,
    /// It failed: the cause is recorded, the body is to be dropped. With an error, that is what it fails with.
    Failed(Option<BoxError>),
    /// Nothing more is asked of the inner body, and nothing more comes.
    Ended,
    /// Waiting for what was given to be flushed, then this error, or ours. Boxed here, off the healthy path.
    Settling(Pin<Box<Sleep>>, Option<BoxError>),
    /// The next poll gives this error.
    Failing(BoxError),
}

type PolledFrame = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

impl Watch {
    /// Before there is a head.
    pub(crate) fn new(case: Case) -> Self {
        Self {
            case,
            stream: StreamKind::Other,
            records: Records::Opaque,
            writable: false,
            bodiless: false,
            expected: UNDECLARED,
            given: 0,
            poisoned: AtomicBool::new(false),
            inner_ended: false,
            stash: Stash::Empty,
            phase: Phase::Open,
        }
    }

    /// The head is there.
    pub(crate) fn begin(&mut self, parts: &Parts, delivery: Delivery, inner_ended: bool) {
        let stream = StreamKind::of(&parts.headers);
        let writable = !delivery.is_bodiless()
            && delivery.declared_length().is_none()
            && allows_insertion(parts.status, &parts.headers);
        let records = match writable {
            true => Records::of(stream, self.case.config.hold_cap),
            false => Records::Opaque,
        };
        self.stream = stream;
        self.records = records;
        self.writable = writable;
        self.bodiless = delivery.is_bodiless();
        self.expected = delivery.declared_length().unwrap_or(UNDECLARED);
        self.inner_ended = inner_ended;
    }

    /// A frame that goes before whatever the inner body gives next.
    #[inline]
    pub(crate) fn take_stash(&mut self) -> Option<Frame<Bytes>> {
        if self.stash.is_empty() {
            return None;
        }
        self.stash.take()
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Less was given than was declared.
    #[inline]
    fn is_short(&self) -> bool {
        self.expected != UNDECLARED && self.given < self.expected
    }

    /// The inner body has said that it has ended, and owes nothing.
    #[inline]
    pub(crate) fn inner_is_over(&self) -> bool {
        self.inner_ended && !self.is_short()
    }

    #[inline]
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.phase, Phase::Failed(_))
    }

    /// The poll before the head. False: it failed.
    pub(crate) fn poll_first<B>(&mut self, mut body: Pin<&mut B>, cx: &mut Context<'_>) -> bool
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        if let Poll::Ready(Some(Ok(frame))) = self.poll(body.as_mut(), cx) {
            self.stash.put_first(frame);
            // now that it has begun, it may know its size; the server will declare it
            let size = match *self.poisoned.get_mut() {
                true => Ok(SizeHint::default()),
                false => catch(|| body.size_hint()),
            };
            match size {
                Ok(size) => {
                    if let (UNDECLARED, Some(left)) = (self.expected, size.exact()) {
                        self.expected = self.given + left;
                        self.writable = false;
                    }
                }
                Err(payload) => self.panicked(payload),
            }
        }
        !self.has_failed()
    }

    /// Polls the inner body. When it fails this gives `None`, and the phase says so.
    #[inline]
    pub(crate) fn poll<B>(&mut self, mut body: Pin<&mut B>, cx: &mut Context<'_>) -> PolledFrame
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        if *self.poisoned.get_mut() {
            self.phase = Phase::Failed(None);
            return Poll::Ready(None);
        }
        loop {
            let frame = match catch(|| body.as_mut().poll_frame(cx)) {
                Ok(Poll::Ready(Some(Ok(frame)))) => frame,
                Ok(Poll::Ready(None)) => return Poll::Ready(self.end().map(Ok)),
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Some(Err(error)))) => {
                    self.error(error);
                    return Poll::Ready(None);
                }
                Err(payload) => {
                    self.panicked(payload);
                    return Poll::Ready(None);
                }
            };
            // The data is taken out and framed again, and looked at where it is: a `Frame` is over 100 bytes, and even
            // its `Bytes`, copied right after they were written in parts, cost 4 ns a copy.
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => return Poll::Ready(Some(Ok(self.other(frame)))),
            };
            match catch(|| body.is_end_stream()) {
                Ok(ended) => self.inner_ended = ended,
                Err(payload) => self.poison(payload),
            }
            self.given += data.len() as u64;
            if self.records.passes(&data) {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if let Some(data) = self.records.push(data) {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if *self.poisoned.get_mut() {
                self.phase = Phase::Failed(None);
                return Poll::Ready(None);
            }
        }
    }

    /// Trailers, or a frame of a kind not known here. No record goes on behind trailers, so one that is held goes first.
    #[cold]
    fn other(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match self.finish_record() {
            Some(record) => {
                self.stash = Stash::Other(Box::new(frame));
                record
            }
            None => frame,
        }
    }

    fn end(&mut self) -> Option<Frame<Bytes>> {
        if self.is_short() {
            self.failed(Cause::short_body(self.given, self.expected));
            return None;
        }
        self.phase = Phase::Ended;
        self.finish_record()
    }

    fn finish_record(&mut self) -> Option<Frame<Bytes>> {
        self.records.finish().map(Frame::data)
    }

    /// The body panicked when it was asked about itself. The next poll ends it.
    #[cold]
    fn poison(&self, payload: Payload) {
        self.poisoned.store(true, Ordering::Relaxed);
        self.case.panicked(payload);
    }

    #[cold]
    fn failed(&mut self, cause: Cause) {
        self.phase = Phase::Failed(None);
        self.case.failed(cause);
    }

    /// The body gave an error, whose conversion, text and drop are foreign code too.
    #[cold]
    fn error<E: Into<BoxError>>(&mut self, error: E) {
        let resets = self.case.request.version >= Version::HTTP_2 && !self.bodiless;
        let read = catch(|| {
            let error = error.into();
            let cause = Cause::of(&*error);
            let chosen = (resets && chosen_reset(&*error).is_some()).then_some(error);
            (cause, chosen)
        });
        match read {
            Ok((cause, chosen)) => {
                self.case.failed(cause);
                self.phase = Phase::Failed(chosen);
            }
            Err(payload) => self.panicked(payload),
        }
    }

    /// Whether it failed with an error that the server is to see: see [`chosen_reset`].
    pub(crate) fn resets(&self) -> bool {
        matches!(self.phase, Phase::Failed(Some(_)))
    }

    #[cold]
    fn panicked(&mut self, payload: Payload) {
        self.phase = Phase::Failed(None);
        self.case.panicked(payload);
    }

    /// The inner body has failed and is gone: chooses what comes in its place.
    #[cold]
    pub(crate) fn fail(&mut self) {
        if self.bodiless {
            self.phase = Phase::Ended;
            return;
        }
        let settling = |settle| Box::pin(tokio::time::sleep(settle));
        if let Phase::Failed(Some(error)) = std::mem::replace(&mut self.phase, Phase::Ended) {
            self.phase = match self.given {
                0 => Phase::Failing(error),
                _ => Phase::Settling(settling(SETTLE), Some(error)),
            };
            return;
        }
        // what is still held of a record is never given
        let tail = if self.writable && self.records.is_clean() {
            self.case.tail(self.stream)
        } else {
            Tail::Abort
        };
        let after_tail = self.case.config.after_tail;
        let settle = match after_tail {
            AfterTail::Abort { settle } => settle,
            AfterTail::End => SETTLE,
        };
        self.phase = match tail {
            // the end would be clean, and a silent success
            Tail::Data(data) if data.is_empty() => Phase::Settling(settling(settle), None),
            Tail::Trailers(trailers) if trailers.is_empty() => {
                Phase::Settling(settling(settle), None)
            }
            Tail::Data(data) => {
                self.stash = Stash::Data(data);
                match after_tail {
                    AfterTail::End => Phase::Ended,
                    AfterTail::Abort { .. } => Phase::Settling(settling(settle), None),
                }
            }
            Tail::Trailers(trailers) => {
                self.stash = Stash::Other(Box::new(Frame::trailers(trailers)));
                Phase::Ended
            }
            Tail::Abort => Phase::Settling(settling(settle), None),
        };
    }

    /// Gives the tail, and what comes after it.
    pub(crate) fn poll_terminal(&mut self, cx: &mut Context<'_>) -> PolledFrame {
        if let Some(frame) = self.stash.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Phase::Settling(sleep, _) = &mut self.phase {
            ready!(sleep.as_mut().poll(cx));
        }
        Poll::Ready(match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Settling(_, Some(error)) | Phase::Failing(error) => Some(Err(error)),
            Phase::Settling(_, None) => Some(Err(self.case.error().into())),
            _ => None,
        })
    }

    #[inline]
    pub(crate) fn is_end_stream(&self) -> bool {
        self.stash.is_empty()
            && match self.phase {
                Phase::Ended => true,
                Phase::Open => {
                    self.inner_is_over()
                        && self.records.held() == 0
                        && !self.poisoned.load(Ordering::Relaxed)
                }
                Phase::Failed(_) | Phase::Settling(..) | Phase::Failing(_) => false,
            }
    }

    #[inline]
    pub(crate) fn size_hint<B: Body>(&self, body: Option<&B>) -> SizeHint {
        let stashed = self.stash.len() as u64;
        let (Phase::Open, Some(body)) = (&self.phase, body) else {
            return match self.phase {
                Phase::Ended => SizeHint::with_exact(stashed),
                _ => SizeHint::default(),
            };
        };
        if self.poisoned.load(Ordering::Relaxed) {
            return SizeHint::default();
        }
        let size = match catch(|| body.size_hint()) {
            Ok(size) => size,
            Err(payload) => {
                self.poison(payload);
                return SizeHint::default();
            }
        };
        let ours = stashed + self.records.held() as u64;
        let mut with_ours = SizeHint::new();
        if let (Some(upper), false) = (size.upper(), self.writable) {
            with_ours.set_upper(upper.saturating_add(ours));
        }
        with_ours.set_lower(size.lower().saturating_add(ours));
        with_ours
    }
}
