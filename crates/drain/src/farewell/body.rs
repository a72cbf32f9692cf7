//! The body that a drain can end.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_stream_core::{
    BoxError, Cause, Delivery, Fault, RecordHold, Records, StreamError, StreamKind,
    allows_insertion, relay,
};

use super::{
    end_timer::{Due, EndTimer},
    layer::Ending,
    message,
};

pin_project! {
    /// The body inside, until the drain ends it.
    pub struct FarewellBody<B> {
        // `None` once the drain has ended it, or it has failed. One that has ended by itself is kept: dropped before the
        // layers outside have judged its end, it would report an end that they may yet overrule
        #[pin]
        inner: Option<B>,
        mode: Mode,
    }
}

enum Mode {
    /// No drain ends it.
    Plain,
    Control(Control),
    /// The drain has answered in place of the handler.
    Answer(Option<Bytes>),
}

struct Control {
    timer: EndTimer,
    fault: Fault,
    kind: StreamKind,
    version: Version,
    records: Records,
    /// trailers that wait for the last of what was held
    trailers: Option<Box<HeaderMap>>,
    /// how much of a declared length is still to come
    left: Option<u64>,
    /// the body inside was polled: what was ready with the head is not lost
    begun: bool,
    /// it has given `None` or trailers, and is not polled again
    over: bool,
}

impl<B: Body> FarewellBody<B> {
    /// A body that no drain ends.
    pub(super) fn plain(inner: B) -> Self {
        Self {
            inner: Some(inner),
            mode: Mode::Plain,
        }
    }

    /// A body of the drain's own.
    pub(super) fn answer(text: Bytes) -> Self {
        Self {
            inner: None,
            mode: Mode::Answer((!text.is_empty()).then_some(text)),
        }
    }

    pub(super) fn new(inner: B, ending: Ending, status: StatusCode, headers: &HeaderMap) -> Self {
        let delivery = Delivery::new(&ending.method, status, headers, &inner);
        if delivery.is_bodiless() || delivery.declared_length() == Some(0) || inner.is_end_stream()
        {
            return Self::plain(inner);
        }
        // not one byte may be added to a declared length, nor to a part of something
        let left = delivery.declared_length();
        let kind = match left {
            None if allows_insertion(status, headers) => StreamKind::of(headers),
            _ => StreamKind::Other,
        };
        Self {
            inner: Some(inner),
            mode: Mode::Control(Control {
                timer: EndTimer::new(
                    ending.shared,
                    (kind != StreamKind::Other).then_some(ending.policy),
                ),
                fault: ending.fault,
                kind,
                version: ending.version,
                records: Records::of(kind, RecordHold::DEFAULT_CAP),
                trailers: None,
                left,
                begun: false,
                over: false,
            }),
        }
    }
}

impl Control {
    /// Whether the stream has to end at the place where it is. `waits`: the body inside has nothing ready.
    #[inline]
    fn ends_now(&self, waits: bool) -> bool {
        match self.timer.due() {
            Due::NotYet => false,
            Due::Anywhere => self.begun || waits,
            Due::AtBoundary => {
                self.records.is_clean()
                    && match self.records {
                        Records::Opaque => false,
                        Records::Held(_) => self.begun || waits,
                        // the status of a call may be ready behind its last message
                        Records::Messages(_) => waits,
                    }
            }
        }
    }

    /// Ends the stream. The fault is recorded before anything is dropped.
    #[cold]
    fn end(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        if self.left == Some(0) {
            // the client has all it was promised
            self.ended();
            return None;
        }
        let clean = self.records.is_clean();
        let shared = self.timer.shared();
        let retry = shared.settings.retry_after();
        let cause = shared.farewell(&self.fault, retry);
        self.timer.clear();
        self.records.discard();
        self.trailers = None;
        let farewell = message::farewell(self.kind, self.version, retry).filter(|_| clean);
        Some(farewell.ok_or_else(|| StreamError::from(cause).into()))
    }
}

impl<B> Body for FarewellBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let control = match this.mode {
            Mode::Control(control) => control,
            Mode::Plain => {
                return match this.inner.as_pin_mut() {
                    Some(inner) => relay(inner.poll_frame(cx)),
                    None => Poll::Ready(None),
                };
            }
            Mode::Answer(text) => return Poll::Ready(text.take().map(Frame::data).map(Ok)),
        };
        if let Some(trailers) = control.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(*trailers))));
        }
        let mut waits = false;
        loop {
            let inner = this.inner.as_mut().as_pin_mut();
            let Some(inner) = inner.filter(|_| !control.over) else {
                return Poll::Ready(None);
            };
            // a stream that has just ended by itself is complete, whoever polls it again
            if control.ends_now(waits) && !inner.is_end_stream() {
                let farewell = control.end();
                // a body that has ended by itself is kept
                if farewell.is_some() {
                    this.inner.set(None);
                }
                return Poll::Ready(farewell);
            }
            if waits {
                return Poll::Pending;
            }
            control.begun = true;
            match inner.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        if let Some(left) = &mut control.left {
                            *left = left.saturating_sub(data.len() as u64);
                        }
                        if control.records.passes(&data) {
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                        if let Some(ready) = control.records.push(data) {
                            return Poll::Ready(Some(Ok(Frame::data(ready))));
                        }
                    }
                    Err(frame) => return Poll::Ready(Some(Ok(control.after_hold(frame)))),
                },
                Poll::Ready(None) => {
                    let rest = control.records.finish();
                    control.ended();
                    return Poll::Ready(rest.map(|rest| Ok(Frame::data(rest))));
                }
                Poll::Ready(Some(Err(error))) => {
                    let error = error.into();
                    control.fail(&*error);
                    this.inner.set(None);
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending => {
                    control.timer.wait(cx);
                    // it may have become due in between
                    waits = true;
                }
            }
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.mode {
            Mode::Control(control) if control.has_more() => false,
            Mode::Control(control) if control.over => true,
            Mode::Answer(text) => text.is_none(),
            _ => self.inner.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let Some(inner) = &self.inner else {
            let text = match &self.mode {
                Mode::Answer(Some(text)) => text.len() as u64,
                _ => 0,
            };
            return SizeHint::with_exact(text);
        };
        let mut hint = inner.size_hint();
        if let Mode::Control(control) = &self.mode
            && control.kind != StreamKind::Other
        {
            // a farewell may come on top, or instead of the rest
            let lower = hint.lower() + control.records.held() as u64;
            hint = SizeHint::default();
            hint.set_lower(lower);
        }
        hint
    }
}

impl Control {
    #[cold]
    fn fail(&mut self, error: &(dyn std::error::Error + 'static)) {
        if self.fault.cause().is_none() {
            self.fault.record(Cause::of(error));
        }
        self.records.discard();
    }

    /// The stream has ended by itself.
    fn ended(&mut self) {
        self.over = true;
        self.timer.clear();
    }

    /// Trailers end a stream: what is held goes first.
    #[cold]
    fn after_hold(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let trailers = match frame.into_trailers() {
            Ok(trailers) => trailers,
            // no third kind of frame exists in http-body 1
            Err(frame) => return frame,
        };
        self.ended();
        match self.records.finish() {
            Some(rest) => {
                self.trailers = Some(Box::new(trailers));
                Frame::data(rest)
            }
            None => Frame::trailers(trailers),
        }
    }

    fn has_more(&self) -> bool {
        self.trailers.is_some() || self.records.held() > 0
    }
}

impl<B> fmt::Debug for FarewellBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let control = match &self.mode {
            Mode::Control(control) => Some(control),
            Mode::Plain | Mode::Answer(_) => None,
        };
        f.debug_struct("FarewellBody")
            .field("kind", &control.map(|control| control.kind))
            .field(
                "ended",
                &(self.inner.is_none() || control.is_some_and(|control| control.over)),
            )
            .finish_non_exhaustive()
    }
}
