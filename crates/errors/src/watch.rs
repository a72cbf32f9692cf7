//! Following one body: what of it may be given out, and what ends it when it fails.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header, response::Parts};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use tower_stream_body::{BoxError, Cause, Delivery, FaultKind, RecordHold, StreamKind};

use crate::{AfterTail, Tail, case::Case, grpc::Messages, layer::SETTLE, panic::catch};

#[derive(Debug)]
pub(crate) struct Watch {
    case: Case,
    stream: StreamKind,
    records: Records,
    /// the head leaves room for bytes that the inner body did not give
    writable: bool,
    /// the declared length, or [`UNDECLARED`]
    expected: u64,
    given: u64,
    /// `size_hint` or `is_end_stream` panicked: not to be touched again
    poisoned: AtomicBool,
    stash: Option<Frame<Bytes>>,
    phase: Phase,
}

/// No length is declared: more bytes than a body can have.
const UNDECLARED: u64 = u64::MAX;

#[derive(Debug)]
enum Records {
    /// Not told apart: every frame passes.
    Unknown,
    Held(RecordHold),
    GrpcWeb(Messages),
}

#[derive(Debug)]
enum Phase {
    /// The inner body goes on.
    Open,
    /// Nothing more is asked of the inner body, and nothing more comes.
    Ended,
    /// Waiting for what was given to be flushed, then `Err`. Boxed here, off the healthy path.
    Settling(Pin<Box<Sleep>>),
}

/// What a poll of the inner body came to.
pub(crate) enum Polled {
    Frame(Frame<Bytes>),
    End,
    /// The cause is recorded; the inner body is to be dropped.
    Failed,
}

impl Watch {
    pub(crate) fn new(case: Case, parts: &Parts, delivery: Delivery) -> Self {
        let stream = StreamKind::of(&parts.headers);
        let encoded = |coding: &HeaderValue| !coding.as_bytes().eq_ignore_ascii_case(b"identity");
        let codings = parts.headers.get_all(header::CONTENT_ENCODING);
        // a range is a part of something whole, and an encoded body cannot be gone on with in plain bytes
        let writable = !delivery.is_bodiless()
            && delivery.declared_length().is_none()
            && parts.status != StatusCode::PARTIAL_CONTENT
            && !codings.iter().any(encoded);
        let records = match (stream, stream.records()) {
            (_, Some(format)) if writable => {
                Records::Held(RecordHold::new(format, case.config.hold_cap))
            }
            (StreamKind::GrpcWeb, _) if writable => Records::GrpcWeb(Messages::default()),
            _ => Records::Unknown,
        };
        Self {
            case,
            stream,
            records,
            writable,
            expected: delivery.declared_length().unwrap_or(UNDECLARED),
            given: 0,
            poisoned: AtomicBool::new(false),
            stash: None,
            phase: Phase::Open,
        }
    }

    pub(crate) fn into_case(self) -> Case {
        self.case
    }

    #[inline]
    pub(crate) fn take_stash(&mut self) -> Option<Frame<Bytes>> {
        self.stash.take()
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Less was given than was declared.
    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        self.expected != UNDECLARED && self.given < self.expected
    }

    /// The poll before the head. False: it failed, the cause is recorded.
    pub(crate) fn poll_first<B>(&mut self, mut body: Pin<&mut B>, cx: &mut Context<'_>) -> bool
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        match self.poll(body.as_mut(), cx) {
            Poll::Pending | Poll::Ready(Polled::End) => true,
            Poll::Ready(Polled::Failed) => false,
            Poll::Ready(Polled::Frame(frame)) => {
                self.stash = Some(frame);
                // now that it has begun, it may know its size; the server will declare it
                let Ok(size) = catch(|| body.size_hint()).map_err(|p| self.case.panicked(p)) else {
                    return false;
                };
                if let (UNDECLARED, Some(left)) = (self.expected, size.exact()) {
                    self.expected = self.given + left;
                    self.writable = false;
                }
                true
            }
        }
    }

    #[inline]
    pub(crate) fn poll<B>(&mut self, mut body: Pin<&mut B>, cx: &mut Context<'_>) -> Poll<Polled>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        if *self.poisoned.get_mut() {
            return Poll::Ready(Polled::Failed);
        }
        loop {
            let polled = match catch(|| body.as_mut().poll_frame(cx)) {
                Ok(polled) => ready!(polled),
                Err(payload) => {
                    self.case.panicked(payload);
                    return Poll::Ready(Polled::Failed);
                }
            };
            match polled {
                Some(Ok(frame)) => {
                    if let Some(frame) = self.frame(frame) {
                        return Poll::Ready(Polled::Frame(frame));
                    }
                }
                Some(Err(error)) => {
                    let error = error.into();
                    self.case.failed(&*error);
                    return Poll::Ready(Polled::Failed);
                }
                None => return Poll::Ready(self.end()),
            }
        }
    }

    /// What of the frame may be given out now.
    #[inline]
    fn frame(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        if let Some(data) = frame.data_ref() {
            self.given += data.len() as u64;
        }
        match &mut self.records {
            Records::Unknown => Some(frame),
            Records::GrpcWeb(messages) => {
                if let Some(data) = frame.data_ref() {
                    messages.push(data);
                }
                Some(frame)
            }
            Records::Held(hold) => match frame.into_data() {
                Ok(data) => hold.push(data).map(Frame::data),
                // trailers: nothing more can be waited for
                Err(frame) => match hold.finish() {
                    Some(held) => {
                        self.stash = Some(frame);
                        Some(Frame::data(held))
                    }
                    None => Some(frame),
                },
            },
        }
    }

    fn end(&mut self) -> Polled {
        if self.is_short() {
            let message = format!(
                "the body ended after {} of {} bytes",
                self.given, self.expected
            );
            self.case
                .fault_found(Cause::new(FaultKind::ShortBody, message));
            return Polled::Failed;
        }
        self.phase = Phase::Ended;
        let held = match &mut self.records {
            Records::Held(hold) => hold.finish(),
            _ => None,
        };
        held.map_or(Polled::End, |held| Polled::Frame(Frame::data(held)))
    }

    /// The inner body has failed and is gone: chooses what comes in its place.
    #[cold]
    pub(crate) fn fail(&mut self) {
        let between_records = match &mut self.records {
            Records::Unknown => true,
            Records::GrpcWeb(messages) => messages.between(),
            Records::Held(hold) => {
                hold.discard();
                hold.is_clean()
            }
        };
        let tail = if self.writable && between_records {
            self.case.tail(self.stream)
        } else {
            Tail::Abort
        };
        let after_tail = self.case.config.after_tail;
        let settle = match after_tail {
            AfterTail::Abort { settle } => settle,
            AfterTail::End => SETTLE,
        };
        let settling = || Phase::Settling(Box::pin(tokio::time::sleep(settle)));
        self.phase = match tail {
            Tail::Data(data) => {
                self.stash = Some(Frame::data(data));
                match after_tail {
                    AfterTail::End => Phase::Ended,
                    AfterTail::Abort { .. } => settling(),
                }
            }
            Tail::Trailers(trailers) => {
                self.stash = Some(Frame::trailers(trailers));
                Phase::Ended
            }
            Tail::Abort => settling(),
        };
    }

    /// Gives the tail, and what comes after it.
    pub(crate) fn poll_terminal(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.stash.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Phase::Settling(sleep) = &mut self.phase {
            ready!(sleep.as_mut().poll(cx));
            self.phase = Phase::Ended;
            return Poll::Ready(Some(Err(self.case.error().into())));
        }
        Poll::Ready(None)
    }

    fn held(&self) -> usize {
        match &self.records {
            Records::Held(hold) => hold.held(),
            _ => 0,
        }
    }

    #[inline]
    pub(crate) fn is_end_stream<B: Body>(&self, body: Option<&B>) -> bool {
        if self.stash.is_some() {
            return false;
        }
        match (&self.phase, body) {
            (Phase::Ended, _) => true,
            (Phase::Open, Some(body)) => {
                self.held() == 0
                    && !self.poisoned.load(Ordering::Relaxed)
                    && self.ask(|| body.is_end_stream()).unwrap_or(false)
                    && !self.is_short()
            }
            _ => false,
        }
    }

    #[inline]
    pub(crate) fn size_hint<B: Body>(&self, body: Option<&B>) -> SizeHint {
        let stashed = match self.stash.as_ref().and_then(Frame::data_ref) {
            Some(data) => data.len() as u64,
            None => 0,
        };
        let (Phase::Open, Some(body)) = (&self.phase, body) else {
            return match self.phase {
                Phase::Ended => SizeHint::with_exact(stashed),
                _ => SizeHint::default(),
            };
        };
        if self.poisoned.load(Ordering::Relaxed) {
            return SizeHint::default();
        }
        let Some(size) = self.ask(|| body.size_hint()) else {
            return SizeHint::default();
        };
        let ours = stashed + self.held() as u64;
        let mut with_ours = SizeHint::new();
        if let (Some(upper), false) = (size.upper(), self.writable) {
            with_ours.set_upper(upper.saturating_add(ours));
        }
        with_ours.set_lower(size.lower().saturating_add(ours));
        with_ours
    }

    /// Asks the inner body something; a panic poisons it, and the next poll ends it.
    #[inline]
    fn ask<T>(&self, ask: impl FnOnce() -> T) -> Option<T> {
        catch(ask)
            .map_err(|payload| {
                self.poisoned.store(true, Ordering::Relaxed);
                self.case.panicked(payload);
            })
            .ok()
    }
}
