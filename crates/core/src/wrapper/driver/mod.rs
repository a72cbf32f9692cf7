//! Runs the stages of one response: its head, its body and its end.

mod origin;

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

use self::origin::{HeadRoot, Length, Origin, Root, RootHints};
use super::{
    At, Hints, Layers, Piece, ResponseHead, StageContext,
    chain::{Chain, HeadPoll},
    fused::Called,
};
use crate::{
    BoxError, Cause, Delivery, Exchange, FaultKind, StreamEnd, StreamKind, drop_cause::drop_cause,
    grpc,
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
    /// Whether no stage of a [rare](super::Stage::RARE) kind looks at frames.
    plain: bool,
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
                plain: false,
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
        match state.plain {
            true => this.chain.poll::<true>(&mut root, &mut cx, &mut polled),
            false => this.chain.poll::<false>(&mut root, &mut cx, &mut polled),
        }
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
        self.plain = chain.is_plain();
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
