//! Whatever a body does and however it is consumed, each stage of a wrapper reports exactly one end, and the correct
//! one.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Once,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use proptest::prelude::*;
use tower::ServiceExt;
use tower_service::Service;
use tower_stream_core::{
    Cause, Exchange, FaultKind, Outcome, StreamEnd,
    mock::{self, MockBody, Step},
    wrapper::{
        Begin, Fused, Hook, Layers, Piece, Polled, ResponseBody, Source, Stage, StageContext,
        Wrapped,
    },
};

/// Collects the calls of its methods, for assertions outside.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Log>);

#[derive(Debug, Default)]
struct Log {
    ends: parking_lot::Mutex<Vec<StreamEnd>>,
    polls: AtomicUsize,
    frames: AtomicUsize,
    ended: AtomicUsize,
    status: parking_lot::Mutex<Option<u8>>,
}

impl Stage for Seen {
    fn on_poll(&mut self, _: &mut impl Source, _: &mut StageContext<'_, '_>) -> Option<Polled> {
        self.0.polls.fetch_add(1, Ordering::Relaxed);
        None
    }
    fn on_piece(&mut self, _: &Piece) {
        self.0.frames.fetch_add(1, Ordering::Relaxed);
    }
    fn on_grpc_status(&mut self, code: u8) {
        let told = self.0.status.lock().replace(code);
        assert_eq!(told, None, "once");
    }
    fn on_latched(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
    fn on_end(&mut self, end: &StreamEnd) {
        self.0.ends.lock().push(end.clone());
    }
}

impl Hook for Seen {
    type Stage = Self;
    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<Self> {
        Begin::Follow(self.clone())
    }
}

impl Seen {
    fn end(&self) -> StreamEnd {
        let ends = self.0.ends.lock();
        assert_eq!(ends.len(), 1, "exactly one end: {ends:?}");
        ends[0].clone()
    }

    fn has_ended(&self) -> bool {
        !self.0.ends.lock().is_empty()
    }
}

/// A handler that responds at once, with these layers.
fn answer<B, L>(
    layers: L,
    method: &Method,
    exchange: &Exchange,
    response: Response<B>,
) -> Response<ResponseBody<B, L>>
where
    B: Body<Data = Bytes, Error: Into<tower_stream_core::BoxError>> + Unpin,
    L: Layers,
{
    ask(Wrapped::new(handler(response), layers), method, exchange)
}

/// A handler that responds at once, without an await.
fn handler<B>(
    response: Response<B>,
) -> impl Service<
    Request<()>,
    Response = Response<B>,
    Error = Infallible,
    Future = std::future::Ready<Result<Response<B>, Infallible>>,
> {
    let mut response = Some(response);
    tower::service_fn(move |_: Request<()>| std::future::ready(Ok(response.take().unwrap())))
}

fn ask<S, B>(mut service: S, method: &Method, exchange: &Exchange) -> Response<B>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let mut request = Request::new(());
    *request.method_mut() = method.clone();
    request.extensions_mut().insert(exchange.clone());
    let mut future = Box::pin(service.call(request));
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(Ok(response)) => response,
        Poll::Pending => panic!("the handler answers at once"),
    }
}

fn observe<B>(body: B, seen: &Seen, exchange: &Exchange) -> ResponseBody<B, Seen>
where
    B: Body<Data = Bytes, Error: Into<tower_stream_core::BoxError>> + Unpin,
{
    answer(seen.clone(), &Method::GET, exchange, Response::new(body)).into_body()
}

type PolledFrame<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

fn poll<B: Body + Unpin>(body: &mut B) -> PolledFrame<B> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// A step that can be created twice.
#[derive(Clone, Copy, Debug)]
enum Play {
    Data(usize),
    Pending,
    Trailers,
    Error,
    Panic,
}

impl Play {
    fn step(self) -> Step {
        match self {
            Self::Data(len) => mock::data(vec![b'x'; len]),
            Self::Pending => mock::pending(),
            Self::Trailers => mock::trailer("x-t", "1"),
            Self::Error => mock::error("scripted"),
            Self::Panic => mock::panic("scripted"),
        }
    }
}

/// How servers consume a body.
#[derive(Clone, Copy, Debug)]
enum Consumer {
    /// h2: polls to `None` or an error.
    ToNone,
    /// h1, chunked: polls until `is_end_stream` is true.
    StopsAtEndStream,
    /// h1, with a length: polls until the length is reached or `is_end_stream` is true.
    StopsAtLength,
    /// A client that disconnects after this many polls.
    Leaves(usize),
}

fn play(script: &[Play], tells_end: bool) -> MockBody {
    let body = MockBody::new(script.iter().map(|p| p.step()));
    if tells_end { body.tells_end() } else { body }
}

/// What happened, in order, as far as it affects the end.
#[derive(Debug, PartialEq)]
enum Event {
    Whole,
    Short,
    Error,
    Panic,
}

/// The expected end: the first failure, otherwise complete, otherwise dropped.
fn expected(events: &[Event]) -> (Outcome, Option<&'static str>) {
    match events.iter().find(|e| **e != Event::Whole) {
        Some(Event::Short) => (Outcome::Error, Some("short_body")),
        Some(Event::Error) => (Outcome::Error, Some("_OTHER")),
        Some(Event::Panic) => (Outcome::Panic, Some("panic")),
        _ if events.is_empty() => (Outcome::Aborted, Some("dropped")),
        _ => (Outcome::Complete, None),
    }
}

fn run(script: &[Play], tells_end: bool, declared: Option<u64>, consumer: Consumer) {
    let mut response = Response::new(play(script, tells_end));
    if let Some(declared) = declared {
        response
            .headers_mut()
            .insert("content-length", declared.into());
    }
    let mut bare = play(script, tells_end);
    let seen = Seen::default();
    let mut body = answer(seen.clone(), &Method::GET, &Exchange::new(), response).into_body();

    let mut events = Vec::new();
    let mut given = 0;
    let reached = |given: u64| declared.is_some_and(|declared| given >= declared);
    let owes = |given: u64| declared.is_some() && !reached(given);
    let says_end = |given: u64| match owes(given) {
        true => Event::Short,
        false => Event::Whole,
    };
    if declared == Some(0) || (bare.is_end_stream() && !owes(0)) {
        events.push(Event::Whole);
    }
    let mut polls = 0;
    loop {
        // A body that is too short has not ended, even if `is_end_stream` is true: the next poll fails.
        assert!(!body.is_end_stream() || (bare.is_end_stream() && !owes(given)));
        if !body.is_end_stream() {
            assert_eq!(body.size_hint().lower(), bare.size_hint().lower());
            assert_eq!(body.size_hint().upper(), bare.size_hint().upper());
        }
        let stop = match consumer {
            Consumer::ToNone => false,
            Consumer::StopsAtEndStream => body.is_end_stream(),
            Consumer::StopsAtLength => body.is_end_stream() || reached(given),
            Consumer::Leaves(after) => polls == after,
        };
        if stop {
            break;
        }
        polls += 1;
        let plain = catch_unwind(AssertUnwindSafe(|| poll(&mut bare)));
        let observed = catch_unwind(AssertUnwindSafe(|| poll(&mut body)));
        match (plain, observed) {
            (Err(_), Err(_)) => {
                events.push(Event::Panic);
                break;
            }
            (Ok(Poll::Pending), Ok(Poll::Pending)) => {}
            (Ok(Poll::Ready(None)), Ok(Poll::Ready(None))) if !owes(given) => {
                events.push(Event::Whole);
                break;
            }
            (Ok(Poll::Ready(None)), Ok(Poll::Ready(Some(Err(_))))) if owes(given) => {
                events.push(Event::Short);
                break;
            }
            (Ok(Poll::Ready(Some(Err(a)))), Ok(Poll::Ready(Some(Err(b))))) => {
                assert_eq!(a.to_string(), b.to_string());
                events.push(Event::Error);
                break;
            }
            (Ok(Poll::Ready(Some(Ok(a)))), Ok(Poll::Ready(Some(Ok(b))))) => {
                assert_eq!(a.data_ref(), b.data_ref());
                assert_eq!(a.trailers_ref(), b.trailers_ref());
                let Some(data) = a.data_ref() else {
                    events.push(says_end(given));
                    assert!(body.is_end_stream());
                    break;
                };
                given += data.len() as u64;
                assert_eq!(body.is_end_stream(), bare.is_end_stream() && !owes(given));
                if reached(given) || (bare.is_end_stream() && !owes(given)) {
                    events.push(Event::Whole);
                }
            }
            (Ok(Poll::Ready(Some(Ok(a)))), Ok(Poll::Ready(Some(Err(_)))))
                if a.is_trailers() && owes(given) =>
            {
                events.push(Event::Short);
                break;
            }
            (plain, observed) => panic!("{plain:?} became {observed:?}"),
        }
    }
    drop(body);
    let end = seen.end();
    assert_eq!(
        (end.outcome(), end.error_type()),
        expected(&events),
        "{events:?}"
    );
    assert_eq!(
        seen.0.ended.load(Ordering::Relaxed),
        usize::from(!events.is_empty())
    );
    assert_eq!(seen.0.polls.load(Ordering::Relaxed), polls);
}

fn any_script() -> impl Strategy<Value = Vec<Play>> {
    let step = prop_oneof![
        6 => (0..4usize).prop_map(Play::Data),
        3 => Just(Play::Pending),
        1 => Just(Play::Trailers),
        1 => Just(Play::Error),
        1 => Just(Play::Panic),
    ];
    proptest::collection::vec(step, 0..8)
}

fn any_consumer() -> impl Strategy<Value = Consumer> {
    prop_oneof![
        Just(Consumer::ToNone),
        Just(Consumer::StopsAtEndStream),
        Just(Consumer::StopsAtLength),
        (0..8usize).prop_map(Consumer::Leaves),
    ]
}

/// The panic messages would fill the terminal.
fn quiet_scripted_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<String>().map(String::as_str) != Some("scripted") {
                default(info);
            }
        }));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn one_end_and_the_right_one(
        script in any_script(),
        tells_end: bool,
        declared in proptest::option::of(0..8u64),
        consumer in any_consumer(),
    ) {
        quiet_scripted_panics();
        run(&script, tells_end, declared, consumer);
    }
}

#[test]
fn a_body_that_is_never_sent_is_complete_without_a_poll() {
    for (method, status) in [
        (Method::HEAD, 200),
        (Method::GET, 101),
        (Method::GET, 204),
        (Method::GET, 304),
    ] {
        let seen = Seen::default();
        let mut response = Response::new(MockBody::new([mock::data("x")]));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        drop(answer(seen.clone(), &method, &Exchange::new(), response));
        assert_eq!(seen.end(), StreamEnd::Complete, "{method} {status}");
    }
}

#[test]
fn h2_may_poll_on_and_find_an_error_after_an_end_that_looked_complete() {
    let seen = Seen::default();
    let body = MockBody::new([mock::data("abc"), mock::error("the checksum is wrong")])
        .with_size_hint(SizeHint::with_exact(3));
    let mut body = observe(body, &seen, &Exchange::new());
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    assert!(!seen.has_ended(), "latched, not yet reported");
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(_)))));
    drop(body);
    assert_eq!(seen.end().outcome(), Outcome::Error);
}

/// A service with one wrapper inside of another, and a layer between them that declares a length of 3 bytes.
fn declared_between(
    body: MockBody,
    [inner, outer]: [&Seen; 2],
    exchange: &Exchange,
) -> ResponseBody<ResponseBody<MockBody, Seen>, Seen> {
    let service = Wrapped::new(handler(Response::new(body)), inner.clone());
    let service = service.map_response(|mut response: Response<_>| {
        response.headers_mut().insert("content-length", 3.into());
        response
    });
    ask(Wrapped::new(service, outer.clone()), &Method::GET, exchange).into_body()
}

#[test]
fn an_outer_wrapper_that_is_complete_settles_the_inner_one() {
    let (inner, outer) = (Seen::default(), Seen::default());
    let body = MockBody::new([mock::data("abc"), mock::hang()]);
    let mut body = declared_between(body, [&inner, &outer], &Exchange::new());
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    drop(body);
    assert_eq!(outer.end(), StreamEnd::Complete);
    assert_eq!(inner.end(), StreamEnd::Complete);
    let latched = [&inner, &outer].map(|seen| seen.0.ended.load(Ordering::Relaxed));
    assert_eq!(latched, [0, 1], "the inner one did not know the length");
}

#[test]
fn a_drain_after_all_that_was_declared_takes_nothing_away() {
    let drained = |exchange: &Exchange| exchange.record(Cause::new(FaultKind::Drain, "going away"));
    let (inner, outer, exchange) = (Seen::default(), Seen::default(), Exchange::new());
    // The server keeps the body while a slow client reads.
    let body = MockBody::new([mock::data("abc"), mock::hang()]);
    let mut body = declared_between(body, [&inner, &outer], &exchange);
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    drained(&exchange);
    drop(body);
    assert_eq!(outer.end(), StreamEnd::Complete);
    assert_eq!(
        inner.end(),
        StreamEnd::Complete,
        "it did not know the length"
    );

    // Before that, it reads the rest.
    let (seen, exchange) = (Seen::default(), Exchange::new());
    let body = MockBody::new([mock::data("abc")]).with_size_hint(SizeHint::with_exact(3));
    let mut body = observe(body, &seen, &exchange);
    drained(&exchange);
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    drop(body);
    assert_eq!(seen.end().error_type(), Some("drain"));
}

#[test]
fn a_grpc_status_is_told_and_fails_the_stream() {
    use tower_stream_core::grpc;
    let web = |code| mock::data(grpc::web_trailers(&grpc::trailers(code, "a message")));
    let message = || mock::data(&b"\0\0\0\0\x01a"[..]);
    let trailer = |code| mock::trailer("grpc-status", code);
    let unavailable = Some("UNAVAILABLE");
    let exhausted = Some("RESOURCE_EXHAUSTED");
    type Case<'a> = (
        &'a str,
        Option<&'a str>,
        Vec<Step>,
        Option<u8>,
        Option<&'a str>,
    );
    #[rustfmt::skip]
    let cases: [Case<'_>; 8] = [
        ("grpc", None, vec![message(), trailer("0")], Some(0), None),
        ("grpc", None, vec![message(), trailer("5")], Some(5), Some("NOT_FOUND")),
        ("grpc+proto", Some("14"), vec![], Some(14), unavailable),
        ("grpc-web", Some("14"), vec![], Some(14), unavailable),
        ("grpc-web", None, vec![message(), web(0)], Some(0), None),
        ("grpc-web+proto", None, vec![message(), web(8)], Some(8), exhausted),
        ("grpc", None, vec![message(), web(8)], None, None),
        ("grpc", None, vec![], None, None),
    ];
    for (content_type, head, steps, told, end) in cases {
        let script = format!("{content_type} {head:?} {steps:?}");
        let seen = Seen::default();
        let mut response =
            Response::builder().header("content-type", format!("application/{content_type}"));
        if let Some(code) = head {
            response = response.header("grpc-status", code);
        }
        let response = response.body(MockBody::new(steps)).unwrap();
        let response = answer(seen.clone(), &Method::GET, &Exchange::new(), response);
        let mut body = response.into_body();
        while let Poll::Ready(Some(frame)) = poll(&mut body) {
            frame.unwrap();
        }
        drop(body);
        assert_eq!(*seen.0.status.lock(), told, "{script}");
        assert_eq!(seen.end().error_type(), end, "{script}");
    }
}

/// A layer that is off passes frames, the end and the size hint unchanged, with the same body type.
#[test]
fn on_or_off_the_body_inside_is_what_is_seen() {
    for layer in [None, Some(Seen::default())] {
        let script = MockBody::new([mock::data("ab"), mock::trailer("x-t", "1")])
            .with_true_size()
            .tells_end();
        let response = Response::new(script);
        let on = layer.is_some();
        let mut body = answer(layer, &Method::GET, &Exchange::new(), response).into_body();
        assert_eq!(body.size_hint().exact(), Some(2), "{on}");
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(frame))) if frame.is_data()));
        assert!(!body.is_end_stream(), "{on}");
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(frame))) if frame.is_trailers()));
        assert!(body.is_end_stream(), "{on}");
        assert_eq!(body.size_hint().exact(), Some(0), "{on}");
    }
}

#[test]
fn polled_again_after_its_end_it_reports_without_waiting_for_the_drop() {
    let seen = Seen::default();
    let mut body = observe(MockBody::new([]), &seen, &Exchange::new());
    assert!(matches!(poll(&mut body), Poll::Ready(None)));
    assert!(!seen.has_ended());
    assert!(matches!(poll(&mut body), Poll::Ready(None)));
    assert_eq!(seen.end(), StreamEnd::Complete);
    drop(body);
    assert_eq!(seen.end(), StreamEnd::Complete);
}

#[test]
fn a_recorded_fault_is_what_every_stage_reports_fused_or_not() {
    let body = || MockBody::new([mock::data("a")]);
    let check = |inner: &Seen, outer: &Seen| {
        assert_eq!(outer.end(), inner.end());
        assert_eq!(outer.end().outcome(), Outcome::Aborted);
        assert_eq!(outer.end().error_type(), Some("drain"));
    };
    let end = |mut body: Pin<Box<dyn Body<Data = Bytes, Error = _>>>, exchange: &Exchange| {
        let _: &tower_stream_core::BoxError = match poll(&mut body) {
            Poll::Ready(Some(Ok(_))) => &"".into(),
            Poll::Ready(Some(Err(error))) => panic!("{error}"),
            _ => panic!("one frame"),
        };
        exchange.record(Cause::new(FaultKind::Drain, "going away"));
        assert!(matches!(poll(&mut body), Poll::Ready(None)));
    };
    let (inner, outer, exchange) = (Seen::default(), Seen::default(), Exchange::new());
    let service = Wrapped::new(handler(Response::new(body())), inner.clone());
    let nested = ask(
        Wrapped::new(service, outer.clone()),
        &Method::GET,
        &exchange,
    );
    end(Box::pin(nested.into_body()), &exchange);
    check(&inner, &outer);

    let (inner, outer, exchange) = (Seen::default(), Seen::default(), Exchange::new());
    let layers = Fused::new().layer(outer.clone()).layer(inner.clone());
    let fused = answer(layers, &Method::GET, &exchange, Response::new(body()));
    end(Box::pin(fused.into_body()), &exchange);
    check(&inner, &outer);
}

/// Adds one piece of its own after the body, or never ends.
#[derive(Clone, Copy)]
struct Tail(Option<&'static str>);

impl Hook for Tail {
    type Stage = Self;
    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<Self> {
        Begin::Follow(*self)
    }
}

impl Stage for Tail {
    fn on_polled(
        &mut self,
        polled: &mut Polled,
        _: &mut impl Source,
        _: &mut StageContext<'_, '_>,
    ) {
        match polled {
            Poll::Ready(Some(Ok(Piece::Data { last, .. }))) => *last = false,
            Poll::Ready(None) => {
                *polled = match self.0.take() {
                    Some("") => Poll::Ready(None),
                    Some(data) => {
                        self.0 = Some("");
                        Poll::Ready(Some(Ok(Piece::Data {
                            data: data.into(),
                            last: true,
                        })))
                    }
                    None => Poll::Pending,
                }
            }
            _ => {}
        }
    }

    fn has_more(&self) -> bool {
        self.0 != Some("")
    }
}

#[test]
fn a_client_that_leaves_is_the_end_of_an_inner_stage_that_had_ended() {
    let (inner, outer) = (Seen::default(), Seen::default());
    // A layer in between that still has bytes of its own to send.
    let layers = Fused::new()
        .layer(outer.clone())
        .layer(Tail(None))
        .layer(inner.clone());
    let response = Response::new(MockBody::new([mock::data("abc")]).tells_end());
    let mut body = answer(layers, &Method::GET, &Exchange::new(), response).into_body();
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    assert!(poll(&mut body).is_pending());
    drop(body);
    assert_eq!(outer.end(), StreamEnd::Dropped);
    assert_eq!(inner.end(), StreamEnd::Dropped);
}

#[test]
fn what_a_stage_adds_comes_before_the_end() {
    for tells_end in [false, true] {
        let (inner, outer) = (Seen::default(), Seen::default());
        let layers = Fused::new()
            .layer(outer.clone())
            .layer(Some(Tail(Some("!"))))
            .layer(None::<Tail>)
            .layer(inner.clone());
        let response = Response::new(play(&[Play::Data(2)], tells_end));
        let mut body = answer(layers, &Method::GET, &Exchange::new(), response).into_body();
        let mut all = Vec::new();
        while !body.is_end_stream() {
            match poll(&mut body) {
                Poll::Ready(Some(Ok(frame))) => all.extend(frame.into_data().unwrap()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(all, b"xx!");
        drop(body);
        assert_eq!(outer.end(), StreamEnd::Complete);
        assert_eq!(inner.end(), StreamEnd::Complete);
        assert_eq!(outer.0.frames.load(Ordering::Relaxed), 2);
        assert_eq!(inner.0.frames.load(Ordering::Relaxed), 1);
    }
}

/// Runs `call` on a service that responds in this way, and drops the result.
fn call<F>(layers: impl Layers, make: impl FnMut(Request<()>) -> F, poll: bool)
where
    F: Future<Output = Result<Response<MockBody>, std::io::Error>>,
{
    let mut service = Wrapped::new(tower::service_fn(make), layers);
    let mut future = Box::pin(service.call(Request::new(())));
    if poll {
        let _ = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
    }
}

#[test]
fn dropped_before_the_head_is_an_end_too() {
    for poll in [false, true] {
        let seen = Seen::default();
        call(seen.clone(), |_| std::future::pending(), poll);
        assert_eq!(seen.end(), StreamEnd::Dropped);
    }
}

#[test]
fn a_handler_that_fails_or_panics_is_an_end_too() {
    let seen = Seen::default();
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    call(seen.clone(), |_| std::future::ready(Err(late())), true);
    assert_eq!(seen.end().error_type(), Some("timeout"));

    quiet_scripted_panics();
    for in_call in [false, true] {
        let seen = Seen::default();
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let handler = |_| {
                assert!(!in_call, "scripted");
                async { std::panic::panic_any("scripted".to_owned()) }
            };
            call(seen.clone(), handler, true);
        }));
        assert!(unwound.is_err());
        assert_eq!(seen.end().outcome(), Outcome::Panic);
    }
}

#[test]
fn a_panic_of_a_stage_at_its_end_stays_inside() {
    #[derive(Clone)]
    struct Bad;
    impl Stage for Bad {
        fn on_end(&mut self, _: &StreamEnd) {
            std::panic::resume_unwind(Box::new(()));
        }
    }
    impl Hook for Bad {
        type Stage = Self;
        fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<Self> {
            Begin::Follow(Self)
        }
    }
    call(Bad, |_| std::future::pending(), true);
    // Also while another panic unwinds: a second panic that leaves the drop would abort the process.
    let unwound = catch_unwind(|| {
        call(
            Bad,
            |_| async { std::panic::resume_unwind(Box::new(())) },
            true,
        );
    });
    assert!(unwound.is_err());
}

/// Responds in place of a handler that has not responded at the first poll.
#[derive(Clone, Debug)]
struct Impatient;

impl Hook for Impatient {
    type Stage = Answer;
    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<Answer> {
        Begin::Follow(Answer(None))
    }
}

/// The content that is still to be returned.
struct Answer(Option<Bytes>);

impl Stage for Answer {
    fn on_pending(
        &mut self,
        up: &mut impl Source,
        cx: &mut StageContext<'_, '_>,
    ) -> Option<http::response::Parts> {
        cx.exchange.record(Cause::new(FaultKind::Timeout, "late"));
        up.discard(cx);
        self.0 = Some(Bytes::from_static(b"late"));
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = http::StatusCode::SERVICE_UNAVAILABLE;
        Some(head)
    }
    fn on_poll(&mut self, _: &mut impl Source, _: &mut StageContext<'_, '_>) -> Option<Polled> {
        let data = self.0.take()?;
        Some(Poll::Ready(Some(Ok(Piece::Data { data, last: true }))))
    }
    fn has_more(&self) -> bool {
        self.0.is_some()
    }
}

#[test]
fn a_stage_answers_for_a_handler_that_has_no_head_yet() {
    let held = Arc::new(());
    let handler = |held: Arc<()>| {
        tower::service_fn(move |_: Request<()>| {
            let held = Arc::clone(&held);
            async move {
                std::future::pending::<()>().await;
                drop(held);
                Ok::<_, Infallible>(Response::new(MockBody::new([])))
            }
        })
    };
    let (inner, outer) = (Seen::default(), Seen::default());
    let layers = Fused::new()
        .layer(outer.clone())
        .layer(Impatient)
        .layer(inner.clone());
    let service = Wrapped::new(handler(Arc::clone(&held)), layers);
    let response = ask(service, &Method::GET, &Exchange::new());
    assert_eq!(Arc::strong_count(&held), 1, "the handler is dropped");
    assert_eq!(response.status(), 503);
    let mut body = Box::pin(response.into_body());
    let Poll::Ready(Some(Ok(frame))) = poll(&mut body) else {
        panic!("the content of the response");
    };
    assert_eq!(frame.into_data().unwrap(), "late");
    assert!(body.is_end_stream());
    drop(body);
    for seen in [inner, outer] {
        assert_eq!(seen.end().error_type(), Some("timeout"));
    }
}

/// Lets a request wait until its flag is set to a decision.
#[derive(Clone, Debug, Default)]
struct Gate(Arc<AtomicUsize>);

impl Gate {
    const OPEN: usize = 1;
    const REFUSE: usize = 2;
}

impl Hook for Gate {
    type Stage = Self;
    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<Self> {
        Begin::Follow(self.clone())
    }
}

impl Stage for Gate {
    fn poll_admission(
        &mut self,
        _: &mut StageContext<'_, '_>,
    ) -> Poll<Option<Box<Response<Bytes>>>> {
        match self.0.load(Ordering::Relaxed) {
            Self::OPEN => Poll::Ready(None),
            Self::REFUSE => {
                let mut response = Response::new(Bytes::from_static(b"busy"));
                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                Poll::Ready(Some(Box::new(response)))
            }
            _ => Poll::Pending,
        }
    }
}

#[test]
fn a_request_waits_for_its_admission_before_the_handler_begins() {
    for (decision, status, content, ends) in [
        (Gate::OPEN, 200, "done", ["complete", "complete"]),
        (Gate::REFUSE, 503, "busy", ["complete", "dropped"]),
    ] {
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let handler = tower::service_fn(move |_: Request<()>| {
            let count = Arc::clone(&count);
            async move {
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(Response::new(MockBody::new([mock::data("done")])))
            }
        });
        let (outer, inner, gate) = (Seen::default(), Seen::default(), Gate::default());
        let layers = Fused::new()
            .layer(outer.clone())
            .layer(gate.clone())
            .layer(inner.clone());
        let mut service = Wrapped::new(handler, layers);
        let mut future = Box::pin(service.call(Request::new(())));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            assert!(future.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(begun.load(Ordering::Relaxed), 0);
        gate.0.store(decision, Ordering::Relaxed);
        let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
            panic!("decided");
        };
        assert_eq!(
            begun.load(Ordering::Relaxed),
            usize::from(decision == Gate::OPEN)
        );
        assert_eq!(response.status(), status);
        let mut body = Box::pin(response.into_body());
        let Poll::Ready(Some(Ok(frame))) = poll(&mut body) else {
            panic!("the content of the response");
        };
        assert_eq!(frame.into_data().unwrap(), content);
        while !body.is_end_stream() && matches!(poll(&mut body), Poll::Ready(Some(_))) {}
        drop(body);
        assert_eq!([outer.end().to_string(), inner.end().to_string()], ends);
    }
}
