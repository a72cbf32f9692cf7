//! Runs the stages of one response: its head, its body and its end.

use std::{
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, response::Parts};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    At, Hints, Layers, Piece, Polled, ResponseHead, Source, StageContext,
    chain::{Chain, HeadPoll, HeadSource, Upstream},
    fused::Called,
};
use crate::{
    BoxError, Cause, Claim, Delivery, Dialect, Exchange, FaultKind, StreamEnd, StreamKind,
    dialect::Detector, drop_cause::drop_cause, grpc,
};

pin_project! {
    /// One response under a wrapper, from the call to the end. Boxed once, in the call.
    pub(super) struct Driver<C: Chain, B> {
        state: State,
        chain: C,
        origin: Origin,
        #[pin]
        body: Option<B>,
    }

    impl<C: Chain, B> PinnedDrop for Driver<C, B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            this.state.finish(this.chain);
            if this.body.is_some() {
                let _ = this.chain.around(At::Drop, || this.body.set(None));
            }
        }
    }
}

struct State {
    exchange: Exchange,
    method: Method,
    /// Number of this body, counted from the innermost wrapper of the request.
    number: u32,
    /// The head, while a stage waits before it is sent. Boxed because it is large, and few responses wait.
    head: Option<Box<ResponseHead>>,
    /// Set while the stages run. If it is found set later, a panic has passed through them.
    running: bool,
    /// Whether the last piece or `None` has been returned.
    over: bool,
    latched: bool,
    /// Whether everything that was declared was returned before a cause was recorded.
    delivered: bool,
    reported: bool,
    /// Set for a gRPC response, whose status decides how it ended.
    grpc: Option<Grpc>,
}

enum Grpc {
    /// The status is in the head or in the trailers.
    Fields,
    /// gRPC-Web: the status is in the data.
    Web(Box<grpc::Messages>),
}

/// The body of the service, as the driver tracks it.
struct Origin {
    given: Length,
    over: bool,
    /// Set if the body must return the last record of its dialect before it ends.
    awaits: Option<Box<Detector>>,
    /// Set if a layer inside writes heartbeats into the body.
    heartbeats: Option<Heard>,
    /// The content of a refusal, in place of a body.
    refusal: Option<Box<Bytes>>,
}

/// How many bytes a body has returned, and how many were declared.
struct Length {
    declared: u64,
    given: u64,
}

impl Length {
    /// Larger than the length of any body.
    const UNDECLARED: u64 = u64::MAX;

    const fn unknown() -> Self {
        Self {
            declared: Self::UNDECLARED,
            given: 0,
        }
    }

    fn of(delivery: Delivery) -> Self {
        Self {
            declared: delivery.declared_length().unwrap_or(Self::UNDECLARED),
            given: 0,
        }
    }

    /// Returns whether the declared length has been reached.
    #[inline]
    fn is_reached(&self) -> bool {
        self.given >= self.declared
    }

    /// Returns whether a body that ends now is too short.
    #[inline]
    fn is_short(&self) -> bool {
        self.given < self.declared && self.declared != Self::UNDECLARED
    }
}

/// The counters of the heartbeat layer inside, as of the last frame.
#[derive(Default)]
struct Heard {
    chunks: u64,
    heartbeats: u64,
}

impl Heard {
    /// Returns whether the frame that just arrived is a heartbeat. A layer in between may have joined one with a chunk.
    #[inline]
    fn is_heartbeat(&mut self, exchange: &Exchange) -> bool {
        let before = std::mem::replace(
            self,
            Self {
                chunks: exchange.chunks(),
                heartbeats: exchange.heartbeats(),
            },
        );
        before.chunks == self.chunks && before.heartbeats != self.heartbeats
    }
}

/// The number of a request that has no response head. It is greater than the number of any body, so the outcome of this
/// request applies to all bodies inside.
const NO_BODY: u32 = u32::MAX;

/// Why there is no head.
pub(super) enum NoHead<E> {
    Failed(E),
    /// A stage caught a panic but returned no head.
    Unanswered,
}

impl<C: Chain, B> Driver<C, B> {
    pub(super) fn new(exchange: Exchange, method: Method) -> Self {
        Self {
            chain: C::absent(),
            state: State {
                exchange,
                method,
                number: NO_BODY,
                head: None,
                running: false,
                over: false,
                latched: false,
                delivered: false,
                reported: false,
                grpc: None,
            },
            origin: Origin {
                given: Length::unknown(),
                over: false,
                awaits: None,
                heartbeats: None,
                refusal: None,
            },
            body: None,
        }
    }

    /// Calls `on_request` of the stages and then the inner service. If no stage catches a panic, this driver is
    /// dropped, which tells the stages about it.
    #[inline]
    pub(super) fn call<L, R>(
        &mut self,
        layers: &L,
        request: Request<R>,
        service: impl FnOnce(Request<R>),
    ) -> Called
    where
        L: Layers<Chain = C>,
        R: 'static,
    {
        self.state.running = true;
        let exchange = &self.state.exchange;
        let entered = exchange.enter();
        let mut request = Some(request);
        let called = layers.call(&mut self.chain, &mut request, exchange, |request| {
            match request.take() {
                Some(request) => service(request),
                None => unreachable!("each layer calls the next one once"),
            }
            Called::Future
        });
        drop(entered);
        self.state.running = false;
        called
    }

    /// No stage follows the request.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.chain.is_absent()
    }

    /// A stage has refused the request with this response.
    pub(super) fn refuse(&mut self, response: Response<Bytes>) {
        let (head, refusal) = response.into_parts();
        self.state.head = Some(Box::new(ResponseHead::new(head)));
        self.origin.refusal = Some(Box::new(refusal));
    }

    /// Drops the inner future before there is a head.
    pub(super) fn drop_future(self: Pin<&mut Self>, drop: impl FnOnce()) {
        let this = self.project();
        this.state.finish(this.chain);
        let _ = this.chain.around(At::Drop, drop);
    }

    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.state.over
    }
}

impl<C, B> Driver<C, B>
where
    C: Chain,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    #[inline]
    pub(super) fn poll_head<F, E>(
        self: Pin<&mut Self>,
        future: Pin<&mut Option<F>>,
        task: &mut Context<'_>,
    ) -> Poll<Result<Parts, NoHead<E>>>
    where
        F: Future<Output = Result<Response<B>, E>>,
        E: fmt::Display + 'static,
    {
        let this = self.project();
        let State {
            exchange,
            method,
            head,
            number,
            running,
            ..
        } = this.state;
        let entered = exchange.enter();
        let mut root = HeadRoot {
            future,
            error: None,
            outside: entered.outside,
            method,
            number,
            body: Root {
                origin: this.origin,
                body: this.body,
            },
        };
        *running = true;
        let mut cx = StageContext::new(task, exchange);
        let waited = head;
        let mut head = waited.take().map(|head| *head);
        let polled = this.chain.poll_head(&mut root, &mut head, &mut cx);
        let HeadRoot {
            mut future,
            error,
            body,
            ..
        } = root;
        if polled.is_ready() {
            // A panic in this drop does not affect the head, which has already arrived.
            let _ = this.chain.around(At::Drop, || future.set(None));
        }
        drop(entered);
        *running = false;
        let state = this.state;
        let Poll::Ready(polled) = polled else {
            state.head = head.map(Box::new);
            return Poll::Pending;
        };
        Poll::Ready(match (polled, head) {
            (HeadPoll::Head, Some(head)) => Ok(state.begin(head, this.chain, &body)),
            _ => {
                state.latch(this.chain);
                state.finish(this.chain);
                Err(error.map_or(NoHead::Unanswered, NoHead::Failed))
            }
        })
    }

    #[inline(always)]
    pub(super) fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let state = this.state;
        if state.running {
            state.panicked();
            state.latch(this.chain);
        }
        let mut root = Root {
            origin: &mut *this.origin,
            body: this.body,
        };
        let mut cx = StageContext::new(task, &mut state.exchange);
        state.running = true;
        let mut polled = Poll::Pending;
        this.chain.poll(&mut root, &mut cx, &mut polled);
        state.running = false;
        match polled {
            Poll::Ready(Some(Ok(Piece::Data { data, last: false })))
                if state.grpc.is_none() && !this.origin.given.is_reached() =>
            {
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(polled) => Poll::Ready(state.passed(polled, this.origin, this.chain)),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.chain.size_hint(&RootHints {
            origin: &self.origin,
            body: self.body.as_ref(),
        })
    }
}

impl State {
    /// Handles what leaves the outermost stage, if it may be the end or contains a gRPC status.
    #[inline(never)]
    fn passed(
        &mut self,
        polled: Option<Result<Piece, BoxError>>,
        origin: &Origin,
        chain: &mut impl Chain,
    ) -> Option<Result<Frame<Bytes>, BoxError>> {
        match polled {
            Some(Ok(Piece::Data { data, last })) => {
                self.over |= last;
                if self.grpc.is_some() {
                    self.grpc_data(&data, chain);
                }
                // At its declared length a body is complete, and h1 does not poll again.
                if last || (origin.given.is_reached() && !chain.has_more()) {
                    self.complete(origin, chain);
                }
                Some(Ok(Frame::data(data)))
            }
            Some(Ok(Piece::Other(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    if self.grpc.is_some() {
                        self.grpc_fields(trailers, chain);
                    }
                    self.over = true;
                    self.complete(origin, chain);
                }
                Some(Ok(*frame))
            }
            None => {
                self.end(origin, chain);
                None
            }
            Some(Err(error)) => {
                record(&self.exchange, &*error);
                self.end(origin, chain);
                Some(Err(error))
            }
        }
    }

    /// Handles the head when it leaves the outermost stage.
    fn begin<B: Body>(
        &mut self,
        mut head: ResponseHead,
        chain: &mut impl Chain,
        root: &Root<'_, B>,
    ) -> Parts {
        if head.is_grpc() {
            self.grpc_head(&mut head, chain);
        }
        let more = chain.has_more();
        self.over = !more && root.is_end_stream();
        let bodiless = Delivery::is_never_sent(&self.method, head.status);
        if self.over || bodiless || (!more && root.origin.given.is_reached()) {
            self.complete(root.origin, chain);
        }
        head.into_parts()
    }

    #[cold]
    fn grpc_head(&mut self, head: &mut ResponseHead, chain: &mut impl Chain) {
        self.grpc = Some(match head.stream_kind() {
            StreamKind::GrpcWeb => Grpc::Web(Box::default()),
            _ => Grpc::Fields,
        });
        self.grpc_fields(&head.headers, chain);
    }

    /// Reads the gRPC status from the response as it leaves the outermost stage.
    #[cold]
    fn grpc_fields(&mut self, fields: &HeaderMap, chain: &mut impl Chain) {
        let Some(code) = grpc::status(fields) else {
            return;
        };
        chain.on_grpc_status(code);
        if code != 0 {
            self.exchange
                .record_with(|| Cause::new(FaultKind::Grpc(code), grpc::message(fields, code)));
        }
    }

    #[cold]
    fn grpc_data(&mut self, data: &[u8], chain: &mut impl Chain) {
        if let Some(Grpc::Web(messages)) = &mut self.grpc
            && let Some(text) = messages.push(data)
        {
            let fields = grpc::web_fields(text);
            self.grpc_fields(&fields, chain);
        }
    }

    /// The response has ended completely, as far as the driver can see.
    #[inline]
    fn complete(&mut self, origin: &Origin, chain: &mut impl Chain) {
        if !self.latched && origin.given.is_reached() {
            // If a cause is recorded, this may be a complete error response that replaces the failed one. The failed
            // one is not complete for that reason.
            self.delivered = self.exchange.cause().is_none();
        }
        self.latch(chain);
    }

    /// Records that the response has ended. `finish` decides later how.
    #[inline]
    fn latch(&mut self, chain: &mut impl Chain) {
        if !self.latched {
            self.latched = true;
            chain.on_latched();
        }
    }

    /// Called when `None` or an error is returned. If the response has ended before, nothing can change any more, so
    /// its end is reported now.
    #[inline]
    fn end(&mut self, origin: &Origin, chain: &mut impl Chain) {
        self.over = true;
        if self.latched {
            self.finish(chain);
        }
        self.complete(origin, chain);
    }

    #[cold]
    fn panicked(&mut self) {
        self.running = false;
        self.exchange
            .record_with(|| Cause::new(FaultKind::Panic, "a panic went through the response"));
    }

    /// Tells the stages how the response ended. Runs in drops, so it must not panic.
    fn finish(&mut self, chain: &mut impl Chain) {
        if self.reported || chain.is_absent() {
            return;
        }
        self.reported = true;
        let _ = catch_unwind(AssertUnwindSafe(|| {
            if self.running {
                self.panicked();
                self.latch(chain);
            }
            if let Some(cause) = drop_cause() {
                self.exchange.record(cause);
            }
            let own = match self.latched {
                true => StreamEnd::Complete,
                false => StreamEnd::Dropped,
            };
            let end = match self.number {
                NO_BODY if !self.latched => self.exchange.settle_without_head(),
                number => self.exchange.settle(number, &own, self.delivered),
            };
            chain.on_end(&end);
        }));
    }
}

/// Records why a stream fails, unless a cause is already known.
#[cold]
fn record(exchange: &Exchange, error: &(dyn Error + 'static)) {
    exchange.record_with(|| Cause::of(error));
}

/// The body of the service, inside of every stage.
struct Root<'a, B> {
    origin: &'a mut Origin,
    body: Pin<&'a mut Option<B>>,
}

impl<B: Body> Root<'_, B> {
    fn hints(&self) -> RootHints<'_, B> {
        RootHints {
            origin: self.origin,
            body: self.body.as_ref().get_ref().as_ref(),
        }
    }
}

impl<B: Body> Hints for Root<'_, B> {
    fn size_hint(&self) -> SizeHint {
        self.hints().size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.hints().is_end_stream()
    }
}

impl<B> Upstream for Root<'_, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    #[inline(always)]
    fn poll_inline(&mut self, cx: &mut StageContext<'_, '_>, polled: &mut Polled) {
        let Some(mut body) = self.body.as_mut().as_pin_mut() else {
            *polled = Poll::Ready(self.origin.refused());
            return;
        };
        let origin = &mut *self.origin;
        if origin.over {
            *polled = Poll::Ready(None);
            return;
        }
        *polled = match body.as_mut().poll_frame(cx.task) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    origin.given.given += data.len() as u64;
                    if let Some(heard) = &mut origin.heartbeats {
                        cx.heartbeat = heard.is_heartbeat(cx.exchange);
                    }
                    let last = body.is_end_stream() && !origin.given.is_short();
                    if origin.passes(&data, last) {
                        Poll::Ready(Some(Ok(Piece::Data { data, last })))
                    } else {
                        Poll::Ready(Some(origin.look(data, last, cx.exchange)))
                    }
                }
                Err(frame) => Poll::Ready(Some(origin.other(frame, cx.exchange))),
            },
            Poll::Ready(None) => Poll::Ready(origin.end(cx.exchange).err().map(Err)),
            Poll::Ready(Some(Err(error))) => {
                origin.over = true;
                let error = error.into();
                record(cx.exchange, &*error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => Poll::Pending,
        };
    }
}

impl<B> Source for Root<'_, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    #[inline(never)]
    fn poll(&mut self, cx: &mut StageContext<'_, '_>) -> Polled {
        let mut polled = Poll::Pending;
        self.poll_inline(cx, &mut polled);
        polled
    }

    #[cold]
    fn discard(&mut self, _: &mut StageContext<'_, '_>) {
        self.origin.over = true;
        self.origin.refusal = None;
        self.body.set(None);
    }
}

impl Origin {
    #[cold]
    fn refused(&mut self) -> Option<Result<Piece, BoxError>> {
        let data = *self.refusal.take()?;
        (!data.is_empty()).then_some(Ok(Piece::Data { data, last: true }))
    }

    /// Fast path: returns true if nothing has to be checked in this data frame. Returns false if the frame may contain
    /// the last record, or may end a body whose last record has not been seen.
    #[inline(always)]
    fn passes(&mut self, data: &[u8], last: bool) -> bool {
        match &mut self.awaits {
            Some(detector) => !last && !self.given.is_reached() && detector.passes(data),
            None => true,
        }
    }

    /// Handles a data frame that may contain the last record.
    #[inline(never)]
    fn look(
        &mut self,
        data: Bytes,
        mut last: bool,
        exchange: &Exchange,
    ) -> Result<Piece, BoxError> {
        if let Some(detector) = &mut self.awaits {
            if detector.push(&data) {
                self.awaits = None;
                exchange.set_terminal();
            } else if self.given.is_reached() && !self.may_end(exchange) {
                // Fail in place of this frame: with it, the client would have the complete declared length, and could
                // not see that the last record is missing.
                self.over = true;
                return Err(incomplete(exchange));
            } else if last {
                last = self.may_end(exchange);
            }
        }
        Ok(Piece::Data { data, last })
    }

    /// Returns whether the body may end here. If not, its end comes with the next poll.
    #[cold]
    fn may_end(&mut self, exchange: &Exchange) -> bool {
        let Some(detector) = &mut self.awaits else {
            return true;
        };
        let may_end = detector.finish();
        if may_end {
            self.awaits = None;
            exchange.set_terminal();
        }
        may_end
    }

    /// Handles a frame without data.
    #[cold]
    fn other(&mut self, frame: Frame<Bytes>, exchange: &Exchange) -> Result<Piece, BoxError> {
        if frame.is_trailers() {
            self.end(exchange)?;
        }
        Ok(Piece::Other(Box::new(frame)))
    }

    /// Handles the end of the body. Fails if data or a last record is missing.
    fn end(&mut self, exchange: &Exchange) -> Result<(), BoxError> {
        self.over = true;
        if self.given.is_short() {
            return Err(self.short(exchange));
        }
        match self.awaits.is_some() && !self.may_end(exchange) {
            true => Err(incomplete(exchange)),
            false => Ok(()),
        }
    }

    #[cold]
    fn short(&self, exchange: &Exchange) -> BoxError {
        let cause = Cause::short_body(self.given.given, self.given.declared);
        exchange.record(cause.clone());
        crate::StreamError::from(cause).into()
    }
}

#[cold]
fn incomplete(exchange: &Exchange) -> BoxError {
    let cause = Cause::new(
        FaultKind::Incomplete,
        "the body ended without the last record of its dialect",
    );
    exchange.record(cause.clone());
    crate::StreamError::from(cause).into()
}

/// The body of the service as in [`Root`], borrowed only to read its hints.
struct RootHints<'a, B> {
    origin: &'a Origin,
    body: Option<&'a B>,
}

impl<B: Body> Hints for RootHints<'_, B> {
    fn size_hint(&self) -> SizeHint {
        // The hint stays inexact for a body that has ended too: with an exact zero, a stage that polled ahead would
        // report an exact size, hyper would send a Content-Length, and trailers or an error would be lost.
        match self.body {
            Some(body) => body.size_hint(),
            None => {
                let refusal = self.origin.refusal.as_ref();
                SizeHint::with_exact(refusal.map_or(0, |data| data.len() as u64))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.body {
            Some(body) if !self.origin.over => {
                let owes = self.origin.given.is_short() || self.origin.awaits.is_some();
                body.is_end_stream() && !owes
            }
            _ => self
                .origin
                .refusal
                .as_ref()
                .is_none_or(|data| data.is_empty()),
        }
    }
}

/// Determines the dialect of the response. Returns a detector if it has a last record and no layer inside looks for it.
#[inline]
fn awaits(
    head: &mut ResponseHead,
    method: &Method,
    delivery: Delivery,
    exchange: &Exchange,
) -> Option<Box<Detector>> {
    let extension = match head.extensions.is_empty() {
        true => None,
        false => head.extensions.get::<Dialect>().copied(),
    };
    let kind = head.stream_kind();
    let events = kind == StreamKind::Sse;
    let named = extension.or_else(|| events.then(|| head.announced_dialect()).flatten());
    if named.is_none() && !exchange.has_dialect() {
        return None;
    }
    named_dialect(
        named,
        kind,
        head.status.is_success(),
        method,
        delivery,
        exchange,
    )
}

#[inline(never)]
fn named_dialect(
    named: Option<Dialect>,
    kind: StreamKind,
    success: bool,
    method: &Method,
    delivery: Delivery,
    exchange: &Exchange,
) -> Option<Box<Detector>> {
    if let Some(dialect) = named {
        exchange.set_dialect(dialect);
    }
    let follows = success && !delivery.is_bodiless() && delivery.declared_length() != Some(0);
    let dialect = exchange.dialect()?;
    if !follows || dialect.kind() != kind {
        return None;
    }
    let detector = dialect.detector(method)?;
    exchange
        .claim(Claim::LastRecord)
        .then(|| Box::new(detector))
}

/// The future of the service, inside of every stage.
struct HeadRoot<'a, 'b, F, E, B> {
    future: Pin<&'a mut Option<F>>,
    error: Option<E>,
    /// Address of the wrapper whose service this is.
    outside: usize,
    method: &'b Method,
    number: &'b mut u32,
    body: Root<'a, B>,
}

impl<F, E, B: Body> Hints for HeadRoot<'_, '_, F, E, B> {
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl<F, E, B> Upstream for HeadRoot<'_, '_, F, E, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    #[inline(always)]
    fn poll_inline(&mut self, cx: &mut StageContext<'_, '_>, polled: &mut Polled) {
        self.body.poll_inline(cx, polled);
    }
}

impl<F, E, B> Source for HeadRoot<'_, '_, F, E, B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut StageContext<'_, '_>) -> Polled {
        self.body.poll(cx)
    }

    fn discard(&mut self, cx: &mut StageContext<'_, '_>) {
        self.future.set(None);
        self.body.discard(cx);
    }
}

impl<F, E, B> HeadSource for HeadRoot<'_, '_, F, E, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: fmt::Display + 'static,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    #[inline]
    fn poll_head(
        &mut self,
        head: &mut Option<ResponseHead>,
        cx: &mut StageContext<'_, '_>,
    ) -> Poll<HeadPoll> {
        if head.is_some() {
            return Poll::Ready(HeadPoll::Head);
        }
        let Some(future) = self.future.as_mut().as_pin_mut() else {
            // The call panicked.
            return Poll::Ready(HeadPoll::Caught);
        };
        let Poll::Ready(answer) = future.poll(cx.task) else {
            return Poll::Pending;
        };
        match answer {
            Ok(response) => {
                let (mut parts, body) = response.into_parts();
                cx.exchange.join_within(self.outside, &mut parts.extensions);
                *self.number = cx.exchange.number_body();
                let head = head.insert(ResponseHead::new(parts));
                // Heads arrive from the inside outwards, so an existing claim was made inside.
                let claimed = cx.exchange.is_claimed(Claim::Heartbeats);
                self.body.origin.heartbeats = claimed.then(Heard::default);
                let delivery = head.delivery(self.method, &body.size_hint());
                self.body.origin.given = Length::of(delivery);
                self.body.origin.awaits = awaits(head, self.method, delivery, cx.exchange);
                self.body.body.set(Some(body));
                Poll::Ready(HeadPoll::Head)
            }
            Err(error) => {
                cx.exchange.record_with(|| Cause::of_service(&error));
                self.error = Some(error);
                Poll::Ready(HeadPoll::Failed)
            }
        }
    }

    fn set_refusal(&mut self, content: Bytes) {
        self.body.origin.refusal = Some(Box::new(content));
    }
}
