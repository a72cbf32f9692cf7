//! Watching a body to its real end.

use std::{
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{BoxError, Cause, Delivery, Exchange, FaultKind, StreamEnd, StreamKind, grpc};

/// What wants to know about a body. Every method has a default that does nothing.
///
/// Nothing here can change the body. A panic in [`Observe::end`] is swallowed, for it often runs in a drop.
pub trait Observe: Send + 'static {
    /// The body is about to be polled.
    fn poll(&mut self) {}

    /// The body gave out this frame.
    fn frame(&mut self, frame: &Frame<Bytes>) {
        let _ = frame;
    }

    /// The response said this gRPC status, 0 included: in its head (Trailers-Only), in its trailers, or in a gRPC-Web
    /// trailer frame, if that comes in one piece. Runs before [`Observe::ended`].
    fn grpc_status(&mut self, code: u8) {
        let _ = code;
    }

    /// The end is reached *now*, however much later it is reported: the place to read a clock.
    ///
    /// Runs at most once, before [`Observe::end`], and not for a body that is dropped unended.
    fn ended(&mut self) {}

    /// How the body ended. Runs exactly once, when the body is dropped or polled again after its end, so that a
    /// truer cause can still be learnt. Also while a panic unwinds.
    fn end(&mut self, end: &StreamEnd) {
        let _ = end;
    }
}

/// An observer at work on one request: from the call, through the handler, to the end of the body.
///
/// Made in `Service::call`, turned into an [`ObservedBody`] when the head is there. Dropped before that, it reports
/// too: nothing that was begun stays without an end.
pub struct Observation<O: Observe> {
    observer: O,
    fault: Exchange,
    /// of this body, counted from the innermost; [`NO_BODY`] before there is a head
    number: u32,
    /// latched: complete, unless a cause is found in the cell by the time of the report
    ended: bool,
    /// all that was declared was given before any cause was recorded
    delivered: bool,
    /// set while the inner future or body runs: found set later, a panic went through
    running: bool,
    reported: bool,
    /// of a gRPC-Web response, whose status is in its data
    messages: Option<Box<grpc::Messages>>,
}

/// More than the bodies of one request: a failure without a head settles the outcome for all of them.
const NO_BODY: u32 = u32::MAX;

impl<O: Observe> Observation<O> {
    /// Begins to observe. `fault` is the cell of this request, see [`Exchange::of`].
    pub fn new(observer: O, fault: Exchange) -> Self {
        Self {
            observer,
            fault,
            number: NO_BODY,
            ended: false,
            delivered: false,
            running: false,
            reported: false,
            messages: None,
        }
    }

    /// What observes.
    pub fn observer(&self) -> &O {
        &self.observer
    }

    /// What observes, to tell it more.
    pub fn observer_mut(&mut self) -> &mut O {
        &mut self.observer
    }

    /// The cell in which the reason of a failure is found.
    pub fn fault(&self) -> &Exchange {
        &self.fault
    }

    /// Runs `poll` (the inner future's, say), and knows afterwards if a panic went through it.
    pub fn run<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        self.running = true;
        let value = poll();
        self.running = false;
        value
    }

    /// The inner service answered with an error instead of a response.
    pub fn fail(&mut self, error: &(dyn Error + 'static)) {
        self.fault.record(Cause::of(error));
        self.latch();
    }

    /// The inner service answered with an error of its own type, see [`Cause::of_service`].
    pub fn fail_service<E: fmt::Display + 'static>(&mut self, error: &E) {
        if self.fault.cause().is_none() {
            self.fault.record(Cause::of_service(error));
        }
        self.latch();
    }

    /// The head is there: goes on with its body, to the end of that.
    pub fn into_response<B>(
        mut self,
        method: &Method,
        response: Response<B>,
    ) -> Response<ObservedBody<B, O>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = response.into_parts();
        self.fault.join(&mut parts.extensions);
        if grpc::content_type(&parts.headers).is_some() {
            self.grpc_head(&parts.headers);
        }
        let delivery = Delivery::new(method, parts.status, &parts.headers, &body);
        let body = ObservedBody::new(body, self, delivery);
        Response::from_parts(parts, body)
    }

    #[cold]
    fn grpc_head(&mut self, head: &HeaderMap) {
        self.grpc_fields(head);
        if StreamKind::of(head) == StreamKind::GrpcWeb {
            self.messages = Some(Box::default());
        }
    }

    fn grpc_fields(&mut self, fields: &HeaderMap) {
        if let Some(code) = grpc::status(fields) {
            self.observer.grpc_status(code);
            if code != 0 {
                self.record(|| Cause::new(FaultKind::Grpc(code), grpc::message(fields, code)));
            }
        }
    }

    #[cold]
    fn grpc_web_data(&mut self, data: &[u8]) {
        let messages = self.messages.as_mut();
        if let Some(text) = messages.and_then(|messages| messages.push(data)) {
            self.grpc_fields(&grpc::web_fields(text));
        }
    }

    fn latch(&mut self) {
        if !self.ended {
            self.ended = true;
            self.observer.ended();
        }
    }

    fn record(&self, cause: impl FnOnce() -> Cause) {
        if self.fault.cause().is_none() {
            self.fault.record(cause());
        }
    }

    #[cold]
    fn panicked(&mut self) {
        self.running = false;
        self.record(|| Cause::new(FaultKind::Panic, "a panic went through the response"));
        self.latch();
    }

    fn report(&mut self) {
        if self.reported {
            return;
        }
        self.reported = true;
        let own = if self.ended {
            StreamEnd::Complete
        } else {
            StreamEnd::Dropped
        };
        let end = match (self.number, &own) {
            (NO_BODY, StreamEnd::Dropped) => self.fault.settle_without_head(),
            (number, own) => self.fault.settle(number, own, self.delivered),
        };
        self.observer.end(&end);
    }
}

impl<O: Observe> Drop for Observation<O> {
    fn drop(&mut self) {
        // a drop must not panic, least of all while another panic unwinds
        let _ = catch_unwind(AssertUnwindSafe(|| {
            if self.running {
                self.panicked();
            }
            self.report();
        }));
    }
}

impl<O: Observe> fmt::Debug for Observation<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observation")
            .field("fault", &self.fault)
            .field("ended", &self.ended)
            .field("reported", &self.reported)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// A body that is watched and not changed: every frame, `is_end_stream` and `size_hint` pass as they are.
    ///
    /// | what happens | the end |
    /// |---|---|
    /// | it has ended when it is wrapped, or will never be sent (HEAD, 204, ..) | `Complete` |
    /// | `None`, trailers, a data frame after which the body says it has ended, the declared length | `Complete` |
    /// | `None` before the declared length | `Failed`, `short_body` |
    /// | a `grpc-status` other than 0, in head, trailers or gRPC-Web trailer frame | `Failed`, the name of the status |
    /// | `Err` | `Failed` |
    /// | a panic unwinds through the poll | `Failed`, `panic` |
    /// | dropped before any of these | `Dropped` |
    ///
    /// A recorded [`Exchange`] overrides all of them, then the end of an outer body of the same request. One exception: a
    /// drain that ends a body after its declared length was given takes nothing away, so that body is `Complete`.
    pub struct ObservedBody<B, O: Observe> {
        // first, so that it is dropped before the body inside: observers report from the outside in
        observation: Observation<O>,
        expected: u64,
        given: u64,
        #[pin]
        inner: B,
    }
}

/// No length is declared: more bytes than a body can have.
const UNDECLARED: u64 = u64::MAX;

impl<B, O> ObservedBody<B, O>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    O: Observe,
{
    /// Wraps a body. [`Observation::into_response`] does it for a whole response.
    pub fn new(inner: B, mut observation: Observation<O>, delivery: Delivery) -> Self {
        observation.number = observation.fault.number_body();
        let expected = delivery.declared_length().unwrap_or(UNDECLARED);
        if delivery.is_bodiless() || expected == 0 {
            observation.latch();
        } else if inner.is_end_stream() {
            observation.reached_end(0, expected);
        }
        Self {
            observation,
            expected,
            given: 0,
            inner,
        }
    }
}

impl<B, O: Observe> ObservedBody<B, O> {
    /// The observation, with its observer.
    pub fn observation(&self) -> &Observation<O> {
        &self.observation
    }

    /// The observation, to tell its observer more: what a body around this one has learnt, say.
    pub fn observation_mut(self: Pin<&mut Self>) -> &mut Observation<O> {
        self.project().observation
    }
}

impl<O: Observe> Observation<O> {
    /// The body says it has no more: the truth, unless it promised more.
    #[inline]
    fn reached_end(&mut self, given: u64, expected: u64) {
        if expected == UNDECLARED {
            self.latch();
        } else if given >= expected {
            self.delivered();
        } else {
            self.short(given, expected);
        }
    }

    #[inline]
    fn delivered(&mut self) {
        if !self.ended {
            // the whole of a response in place of one that failed says nothing of that one
            self.delivered = self.fault.cause().is_none();
            self.latch();
        }
    }

    #[cold]
    fn short(&mut self, given: u64, expected: u64) {
        self.record(|| Cause::short_body(given, expected));
        self.latch();
    }

    #[cold]
    fn polled_again(&mut self) {
        let _ = catch_unwind(AssertUnwindSafe(|| self.report()));
    }
}

impl<B, O> Body for ObservedBody<B, O>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    O: Observe,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let observation = this.observation;
        if observation.running {
            observation.panicked();
        }
        let again = observation.ended;
        observation.running = true;
        observation.observer.poll();
        let polled = match this.inner.as_mut().poll_frame(cx) {
            // The data is taken out and framed again because a `Frame` is over 100 bytes: copied whole, right after
            // it was written in parts, it costs 5 ns more (see benches/body.rs).
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    *this.given += data.len() as u64;
                    if observation.messages.is_some() {
                        observation.grpc_web_data(&data);
                    }
                    let frame = Frame::data(data);
                    observation.observer.frame(&frame);
                    if *this.given >= *this.expected {
                        observation.delivered();
                    } else if this.inner.is_end_stream() {
                        observation.reached_end(*this.given, *this.expected);
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
                Err(frame) => {
                    observation.observer.frame(&frame);
                    if let Some(trailers) = frame.trailers_ref() {
                        observation.grpc_fields(trailers);
                        observation.reached_end(*this.given, *this.expected);
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
            },
            Poll::Ready(None) => {
                observation.reached_end(*this.given, *this.expected);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let error = error.into();
                observation.fail(&*error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => Poll::Pending,
        };
        observation.running = false;
        if again && matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            observation.polled_again();
        }
        polled
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: fmt::Debug, O: Observe> fmt::Debug for ObservedBody<B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObservedBody")
            .field("inner", &self.inner)
            .field("observation", &self.observation)
            .finish_non_exhaustive()
    }
}
