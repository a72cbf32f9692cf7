//! Whatever a body does and however it is consumed: one end, the right one, and nothing changed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Once,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Method, Response};
use http_body::{Body, Frame, SizeHint};
use proptest::prelude::*;
use tower_stream_core::{
    Cause, Delivery, Exchange, FaultKind, Observation, Observe, ObservedBody, Outcome, StreamEnd,
    mock::{self, MockBody, Step},
};

/// Collects what it is told, for a look from outside.
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

impl Observe for Seen {
    fn poll(&mut self) {
        self.0.polls.fetch_add(1, Ordering::Relaxed);
    }
    fn frame(&mut self, _: &Frame<Bytes>) {
        self.0.frames.fetch_add(1, Ordering::Relaxed);
    }
    fn grpc_status(&mut self, code: u8) {
        let told = self.0.status.lock().replace(code);
        assert_eq!(told, None, "once");
    }
    fn ended(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
    fn end(&mut self, end: &StreamEnd) {
        self.0.ends.lock().push(end.clone());
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

fn observe<B>(body: B, seen: &Seen, fault: &Exchange) -> ObservedBody<B, Seen>
where
    B: Body<Data = Bytes>,
    B::Error: Into<tower_stream_core::BoxError>,
{
    let observation = Observation::new(seen.clone(), fault.clone());
    observation
        .into_response(&Method::GET, Response::new(body))
        .into_body()
}

type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

fn poll<B: Body + Unpin>(body: &mut B) -> Polled<B> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// A step that can be made twice.
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
    /// h2: until `None` or an error.
    ToNone,
    /// h1, chunked: not once `is_end_stream` is true.
    StopsAtEndStream,
    /// h1, with a length: not once it is reached, nor when `is_end_stream` is true.
    StopsAtLength,
    /// A client that leaves after this many polls.
    Leaves(usize),
}

fn play(script: &[Play], tells_end: bool) -> MockBody {
    let body = MockBody::new(script.iter().map(|p| p.step()));
    if tells_end { body.tells_end() } else { body }
}

/// What happened, in the order it happened, as far as it says something about the end.
#[derive(Debug, PartialEq)]
enum Event {
    Whole,
    Short,
    Error,
    Panic,
}

/// The end by the table in the documentation of `ObservedBody`: the first failure, else complete, else dropped.
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
    let mut headers = http::HeaderMap::new();
    if let Some(declared) = declared {
        headers.insert("content-length", declared.into());
    }
    let mut bare = play(script, tells_end);
    let seen = Seen::default();
    let delivery = Delivery::new(&Method::GET, http::StatusCode::OK, &headers, &bare);
    let observation = Observation::new(seen.clone(), Exchange::new());
    let mut body = ObservedBody::new(play(script, tells_end), observation, delivery);

    let mut events = Vec::new();
    let mut given = 0;
    let reached = |given: u64| declared.is_some_and(|declared| given >= declared);
    let says_end = |given: u64| {
        if declared.is_none() || reached(given) {
            Event::Whole
        } else {
            Event::Short
        }
    };
    if declared == Some(0) {
        events.push(Event::Whole);
    } else if bare.is_end_stream() {
        events.push(says_end(0));
    }
    let mut polls = 0;
    loop {
        assert_eq!(body.is_end_stream(), bare.is_end_stream());
        assert_eq!(body.size_hint().lower(), bare.size_hint().lower());
        assert_eq!(body.size_hint().upper(), bare.size_hint().upper());
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
            (Ok(Poll::Ready(None)), Ok(Poll::Ready(None))) => {
                events.push(says_end(given));
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
                if let Some(data) = a.data_ref() {
                    given += data.len() as u64;
                    if reached(given) {
                        events.push(Event::Whole);
                    } else if bare.is_end_stream() {
                        events.push(says_end(given));
                    }
                } else {
                    events.push(says_end(given));
                }
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

/// They would fill the terminal.
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
    for (method, status) in [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304)] {
        let seen = Seen::default();
        let mut response = Response::new(MockBody::new([mock::data("x")]));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        let observation = Observation::new(seen.clone(), Exchange::new());
        drop(observation.into_response(&method, response));
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

#[test]
fn a_drain_after_all_that_was_declared_takes_nothing_away() {
    let drained = |fault: &Exchange| fault.record(Cause::new(FaultKind::Drain, "going away"));
    let (inner, outer, fault) = (Seen::default(), Seen::default(), Exchange::new());
    // the server keeps the body while the client reads slowly
    let body = MockBody::new([mock::data("abc"), mock::hang()]);
    let body = observe(body, &inner, &fault);
    let response = Response::builder().header("content-length", "3");
    let mut body = Observation::new(outer.clone(), fault.clone())
        .into_response(&Method::GET, response.body(body).unwrap())
        .into_body();
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    drained(&fault);
    drop(body);
    assert_eq!(outer.end(), StreamEnd::Complete);
    assert_eq!(
        inner.end(),
        StreamEnd::Complete,
        "it did not know the length"
    );

    // before that, it takes the rest
    let (seen, fault) = (Seen::default(), Exchange::new());
    let body = MockBody::new([mock::data("abc")]).with_size_hint(SizeHint::with_exact(3));
    let mut body = observe(body, &seen, &fault);
    drained(&fault);
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
    for (content_type, head, steps, told, end) in [
        ("grpc", None, vec![message(), trailer("0")], Some(0), None),
        (
            "grpc",
            None,
            vec![message(), trailer("5")],
            Some(5),
            Some("NOT_FOUND"),
        ),
        (
            "grpc+proto",
            Some("14"),
            vec![],
            Some(14),
            Some("UNAVAILABLE"),
        ),
        (
            "grpc-web",
            Some("14"),
            vec![],
            Some(14),
            Some("UNAVAILABLE"),
        ),
        ("grpc-web", None, vec![message(), web(0)], Some(0), None),
        (
            "grpc-web+proto",
            None,
            vec![message(), web(8)],
            Some(8),
            Some("RESOURCE_EXHAUSTED"),
        ),
        ("grpc", None, vec![message(), web(8)], None, None),
        ("grpc", None, vec![], None, None),
    ] {
        let script = format!("{content_type} {head:?} {steps:?}");
        let seen = Seen::default();
        let mut response =
            Response::builder().header("content-type", format!("application/{content_type}"));
        if let Some(code) = head {
            response = response.header("grpc-status", code);
        }
        let response = response.body(MockBody::new(steps)).unwrap();
        let observation = Observation::new(seen.clone(), Exchange::new());
        let mut body = observation
            .into_response(&Method::GET, response)
            .into_body();
        while let Poll::Ready(Some(frame)) = poll(&mut body) {
            frame.unwrap();
        }
        drop(body);
        assert_eq!(*seen.0.status.lock(), told, "{script}");
        assert_eq!(seen.end().error_type(), end, "{script}");
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
fn a_recorded_fault_is_what_every_observer_reports() {
    let (inner, outer, fault) = (Seen::default(), Seen::default(), Exchange::new());
    let body = observe(MockBody::new([mock::data("a")]), &inner, &fault);
    let mut body = observe(body, &outer, &fault);
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    fault.record(Cause::new(FaultKind::Drain, "going away"));
    assert!(matches!(poll(&mut body), Poll::Ready(None)));
    drop(body);
    assert_eq!(outer.end(), inner.end());
    assert_eq!(outer.end().outcome(), Outcome::Aborted);
    assert_eq!(outer.end().error_type(), Some("drain"));
}

#[test]
fn an_outer_body_that_is_complete_settles_the_inner_one() {
    let (inner, outer, fault) = (Seen::default(), Seen::default(), Exchange::new());
    let body = observe(
        MockBody::new([mock::data("abc"), mock::hang()]),
        &inner,
        &fault,
    );
    let mut headers = http::HeaderMap::new();
    headers.insert("content-length", 3.into());
    let delivery = Delivery::new(&Method::GET, http::StatusCode::OK, &headers, &body);
    let observation = Observation::new(outer.clone(), fault);
    let mut body = ObservedBody::new(body, observation, delivery);
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    drop(body);
    assert_eq!(outer.end(), StreamEnd::Complete);
    assert_eq!(inner.end(), StreamEnd::Complete);
}

#[test]
fn a_client_that_leaves_is_the_end_of_an_inner_body_that_had_ended() {
    let (inner, outer, fault) = (Seen::default(), Seen::default(), Exchange::new());
    let body = observe(MockBody::new([mock::data("abc")]), &inner, &fault);
    // a layer between that still has bytes of its own to send
    let body = Tail { inner: body };
    let mut body = observe(body, &outer, &fault);
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    assert!(poll(&mut body).is_pending());
    drop(body);
    assert_eq!(outer.end(), StreamEnd::Dropped);
    assert_eq!(inner.end(), StreamEnd::Dropped);

    struct Tail<B> {
        inner: B,
    }
    impl<B: Body + Unpin> Body for Tail<B> {
        type Data = B::Data;
        type Error = B::Error;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(None) => Poll::Pending,
                other => other,
            }
        }
    }
}

#[test]
fn dropped_before_the_head_is_an_end_too() {
    let seen = Seen::default();
    drop(Observation::new(seen.clone(), Exchange::new()));
    assert_eq!(seen.end(), StreamEnd::Dropped);
}

#[test]
fn a_handler_that_fails_or_panics_is_an_end_too() {
    let seen = Seen::default();
    let mut observation = Observation::new(seen.clone(), Exchange::new());
    observation.fail(&std::io::Error::from(std::io::ErrorKind::TimedOut));
    drop(observation);
    assert_eq!(seen.end().error_type(), Some("timeout"));

    let seen = Seen::default();
    let mut observation = Observation::new(seen.clone(), Exchange::new());
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        observation.run(|| std::panic::resume_unwind(Box::new(())));
    }));
    assert!(unwound.is_err());
    drop(observation);
    assert_eq!(seen.end().outcome(), Outcome::Panic);
}

#[test]
fn a_panic_of_the_observer_stays_inside() {
    struct Bad;
    impl Observe for Bad {
        fn end(&mut self, _: &StreamEnd) {
            std::panic::resume_unwind(Box::new(()));
        }
    }
    drop(Observation::new(Bad, Exchange::new()));
    // while another panic unwinds, too: a second one that left the drop would abort the process
    let unwound = catch_unwind(|| {
        let _observation = Observation::new(Bad, Exchange::new());
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(unwound.is_err());
}

#[test]
fn an_upgrade_is_no_aborted_stream() {
    let seen = Seen::default();
    let mut response = Response::new(MockBody::new([]));
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    drop(Observation::new(seen.clone(), Exchange::new()).into_response(&Method::GET, response));
    assert_eq!(seen.end(), StreamEnd::Complete);
}
