use http::{StatusCode, Version};
use http_body::Frame;
use tokio::time::{Instant, sleep};
use tower_layer::Layer;
use tower_stream_core::{
    Cause, Claim, Exchange, FaultKind, Outcome, StreamEnd,
    mock::{self, PanicIn, Step},
    wrapper::{Begin, Hook, Stage, Wrapped},
};

use super::*;
use crate::{DrainToken, FarewellLayer, Policy};

const SSE: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";

fn stream(content_type: &str, body: MockBody) -> Response<MockBody> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert("content-type", content_type.parse().unwrap());
    response
}

/// Reads the response that `layer` returns, while a drain starts at the same time.
async fn drained(
    drain: &Drain,
    layer: FarewellLayer,
    response: Response<MockBody>,
) -> (String, Option<String>) {
    let (parts, body) = response.into_parts();
    let cell = parking_lot::Mutex::new(Some(body));
    let cell = std::sync::Arc::new(cell);
    let app = drain.layer().layer(layer.layer(service(move |_| {
        let body = cell.lock().take().expect("one request");
        let response = Response::from_parts(parts.clone(), body);
        async { response }
    })));
    let response = call(&app, get("/")).await;
    drain.start();
    read(response.into_body()).await
}

/// The events that the algorithm of WHATWG HTML section 9.2.6 dispatches: type, data and last id.
fn events(text: &str) -> Vec<(String, String, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let (mut kind, mut data, mut id) = (String::new(), String::new(), String::new());
    let mut dispatched = Vec::new();
    // Bytes after the last line end are an incomplete line, which does not count.
    for line in text
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
    {
        if line.is_empty() {
            if let Some(data) = data.strip_suffix('\n') {
                dispatched.push((kind.clone(), data.to_owned(), id.clone()));
            }
            kind.clear();
            data.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut kind),
            "data" => data = format!("{data}{value}\n"),
            "id" => value.clone_into(&mut id),
            _ => {}
        }
    }
    dispatched
}

/// One event every 1.1 s, endlessly.
fn ticking() -> MockBody {
    let tick = |n| {
        let event = format!("id: {n}\ndata: {n}\n\n");
        [mock::data(event), mock::sleep(1100 * MS)]
    };
    MockBody::new((0..1000).flat_map(tick))
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_an_event_stream_gets_one_drain_event() {
    let drain = drain();
    let start = Instant::now();
    let (text, error) = drained(&drain, drain.farewell(), stream(SSE, ticking())).await;
    assert_eq!((start.elapsed(), error), (5 * SECOND, None));
    let seen = events(&text);
    assert_eq!(seen.len(), 6, "{text}");
    let (kind, data, id) = &seen[5];
    assert_eq!(
        (kind.as_str(), id.as_str()),
        ("drain", "4"),
        "it keeps the last id"
    );
    assert!(
        data.contains("\"reason\":\"drain\"") && data.contains("\"retry_ms\":"),
        "{data}"
    );
    let retry = text.split("retry: ").nth(1).unwrap().trim();
    assert!(
        (1000..=5000).contains(&retry.parse::<u64>().unwrap()),
        "{retry}"
    );
    assert_eq!(drain.stats().ended_early, 1);
}

#[tokio::test(start_paused = true)]
async fn each_format_has_its_farewell() {
    let hang = || MockBody::new([mock::data("x\n"), mock::hang()]);
    for (content_type, start, end) in [
        (LINES, "x\n{\"drain\":{", "}}\n"),
        ("application/json-seq", "x\n\u{1e}{\"drain\":{", "}}\n"),
    ] {
        let drain = drain();
        let (text, error) = drained(&drain, drain.farewell(), stream(content_type, hang())).await;
        assert_eq!(error, None);
        assert!(
            text.starts_with(start) && text.ends_with(end),
            "{content_type}: {text:?}"
        );
        if let Some(object) = text.strip_prefix("x\n{\"drain\":") {
            assert!(object.contains("\"retry_ms\":"), "{object}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_is_told_in_trailers() {
    let drain = drain();
    let app = drain.farewell().layer(service(|_| async {
        let message = MockBody::new([mock::data(&b"\0\0\0\0\x01x"[..]), mock::hang()]);
        stream("application/grpc", message)
    }));
    let mut request = get("/");
    *request.version_mut() = Version::HTTP_2;
    let mut body = call(&app, request).await.into_body();
    let hold = DrainToken::new(&drain);
    drain.start();
    body.frame().await.unwrap().unwrap();
    let farewell = body.frame().await.unwrap().unwrap();
    let trailers = farewell.into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "14");
    assert!(body.frame().await.is_none());
    drop(hold);
}

/// What a client of `version` receives of a gRPC stream for which the deadline passes after `sent`: the data, whether
/// there were trailers, and the failure.
async fn grpc_drained(
    version: Version,
    content_type: &'static str,
    sent: &'static [u8],
) -> (Vec<u8>, bool, Option<String>) {
    let drain = drain();
    let app = drain
        .layer()
        .layer(drain.farewell().layer(service(move |_| async move {
            let body = MockBody::new([mock::data(sent), mock::hang()]);
            stream(content_type, body)
        })));
    let mut request = get("/");
    *request.version_mut() = version;
    let mut body = std::pin::pin!(call(&app, request).await.into_body());
    drain.start();
    let (mut data, mut trailers, mut error) = (Vec::new(), false, None);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => data.extend(bytes),
            Ok(Err(_)) => trailers = true,
            Err(failure) => error = Some(failure.to_string()),
        }
    }
    (data, trailers, error)
}

/// Over HTTP/1 the trailers are dropped, and the client would see a clean end.
#[tokio::test(start_paused = true)]
async fn grpc_over_http_1_is_aborted_and_never_ends_cleanly() {
    let message = b"\0\0\0\0\x02ab";
    for version in [Version::HTTP_10, Version::HTTP_11] {
        let (data, trailers, error) = grpc_drained(version, "application/grpc", message).await;
        assert_eq!((&data[..], trailers), (&message[..], false));
        assert!(error.is_some(), "{version:?}");
    }
    // gRPC-Web has its trailers in the data, so HTTP/1 makes no difference.
    let (data, _, error) = grpc_drained(Version::HTTP_11, "application/grpc-web", message).await;
    assert_eq!((data[message.len()], error), (0x80, None));
}

#[tokio::test(start_paused = true)]
async fn half_a_grpc_message_is_followed_by_nothing() {
    let half = b"\0\0\0\0\x02ab\0\0\0\0\x64half";
    for content_type in ["application/grpc", "application/grpc-web+proto"] {
        let (data, trailers, error) = grpc_drained(Version::HTTP_2, content_type, half).await;
        assert_eq!((&data[..], trailers), (&half[..], false), "{content_type}");
        assert!(error.is_some(), "{content_type}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_told_in_band_fails() {
    let hang = |len: usize| MockBody::new([mock::data("x".repeat(len)), mock::hang()]);
    let octets = || stream("application/octet-stream", hang(3));
    let mut sized = stream(SSE, hang(3));
    sized.headers_mut().insert("content-length", 10.into());
    let exact = stream(
        SSE,
        hang(3).with_size_hint(http_body::SizeHint::with_exact(10)),
    );
    let mut encoded = stream(SSE, hang(3));
    encoded
        .headers_mut()
        .insert("content-encoding", "gzip".parse().unwrap());
    let mut partial = stream(LINES, hang(3));
    *partial.status_mut() = StatusCode::PARTIAL_CONTENT;
    for response in [octets(), sized, exact, encoded, partial] {
        let drain = drain();
        let what = format!("{:?}", response.headers());
        let (text, error) = drained(&drain, drain.farewell(), response).await;
        assert_eq!(text, "xxx", "{what}");
        assert!(
            error.is_some_and(|error| error.contains("shutting down")),
            "{what}"
        );
    }
}

/// The client never sees the half event, whenever the deadline passes.
#[tokio::test(start_paused = true)]
async fn cut_at_every_byte_no_half_event_is_dispatched() {
    let whole = "\u{feff}: hi\r\n\r\nid: 1\r\ndata: eins\r\rdata: zwei\n\ndata: \u{1f600}\n\nid: 4\ndata: vier\r\n\r\n";
    for cut in 0..=whole.len() {
        for chunk in [1, 7, cut.max(1)] {
            let drain = drain();
            let mut steps: Vec<Step> = whole.as_bytes()[..cut]
                .chunks(chunk)
                .map(|bytes| mock::data(bytes.to_vec()))
                .collect();
            steps.push(mock::hang());
            let (text, error) =
                drained(&drain, drain.farewell(), stream(SSE, MockBody::new(steps))).await;
            assert_eq!(error, None);
            let seen = events(&text);
            let reference = events(&whole[..floor(whole, cut)]);
            let (last, before) = seen.split_last().unwrap();
            assert_eq!(last.0, "drain", "cut at {cut} in {chunk}: {text:?}");
            assert_eq!(before, &reference[..], "cut at {cut} in {chunk}: {text:?}");
        }
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[tokio::test(start_paused = true)]
async fn a_record_over_the_cap_is_let_through_and_then_nothing_may_follow() {
    let drain = drain();
    let long = "x".repeat(70_000);
    let body = MockBody::new([mock::data(long.clone()), mock::hang()]);
    let (text, error) = drained(&drain, drain.farewell(), stream(SSE, body)).await;
    assert_eq!(text, long);
    assert!(error.is_some());
}

#[derive(Clone, Default)]
struct Seen(std::sync::Arc<parking_lot::Mutex<Option<StreamEnd>>>);

impl Hook for Seen {
    type Stage = Self;

    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<Self> {
        Begin::Follow(self.clone())
    }
}

impl Stage for Seen {
    fn on_end(&mut self, end: &StreamEnd) {
        *self.0.lock() = Some(end.clone());
    }
}

/// A layer inside of the farewell layer, one outside, and one outside of all: the drain is the cause in each.
#[tokio::test(start_paused = true)]
async fn layers_on_both_sides_read_aborted_by_drain() {
    for content_type in [SSE, "application/octet-stream"] {
        let drain = drain();
        let (inner, outer) = (Seen::default(), Seen::default());
        let ends = [inner.0.clone(), outer.0.clone()];
        let handler = service(move |_| {
            let body = MockBody::new([mock::data("data: 1\n\ndata"), mock::hang()]);
            async move { stream(content_type, body) }
        });
        let app = Wrapped::new(drain.farewell().layer(Wrapped::new(handler, inner)), outer);
        let mut request = get("/");
        let exchange = Exchange::of(request.extensions_mut());
        let response = call(&app, request).await;
        let hold = DrainToken::new(&drain);
        drain.start();
        read(response.into_body()).await;
        for end in ends {
            let end = end.lock().take().unwrap();
            assert_eq!(end.outcome(), Outcome::Aborted, "{content_type} {end}");
            assert_eq!(end.error_type(), Some("drain"), "{content_type} {end}");
        }
        assert_eq!(exchange.cause().unwrap().kind(), FaultKind::Drain);
        drop(hold);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_in_time_passes_as_it_is() {
    let steps = || {
        [
            mock::data("data: 1\n"),
            mock::sleep(SECOND),
            mock::data("\nda"),
            mock::data("ta"),
        ]
    };
    for body in [MockBody::new(steps()), MockBody::new(steps()).tells_end()] {
        let drain = drain();
        let (text, error) = drained(&drain, drain.farewell(), stream(SSE, body)).await;
        assert_eq!((text.as_str(), error), ("data: 1\n\ndata", None));
        assert_eq!(drain.stats().ended_early, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_comes_before_trailers() {
    let drain = drain();
    let app = drain.farewell().layer(service(|_| async {
        stream(
            LINES,
            MockBody::new([mock::data("{\"a\""), mock::trailer("x-a", "1")]),
        )
    }));
    let mut body = call(&app, get("/")).await.into_body();
    assert_eq!(
        body.frame().await.unwrap().unwrap().into_data().unwrap(),
        "{\"a\""
    );
    assert!(!body.is_end_stream());
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_after_a_farewell() {
    for (content_type, held) in [(SSE, "data: 1"), (LINES, "{\"a\"")] {
        let drain = drain();
        let app = drain.farewell().layer(service(move |_| async move {
            stream(
                content_type,
                MockBody::new([mock::data(held), mock::hang()]),
            )
        }));
        let mut body = call(&app, get("/")).await.into_body();
        let hold = DrainToken::new(&drain);
        drain.start_within(SECOND);
        let farewell = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(farewell.windows(5).any(|word| word == b"drain"));
        assert!(body.is_end_stream(), "the half record is dropped");
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.frame().await.is_none());
        drop(hold);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_passes_with_its_own_cause_and_is_not_followed() {
    let drain = drain();
    let error = Cause::new(FaultKind::Io, "disk");
    let app = drain.farewell().layer(service(move |_| {
        let body = MockBody::new([mock::data("data: 1\n\nda"), mock::error(error.clone())]);
        async { stream(SSE, body) }
    }));
    let mut request = get("/");
    let fault = Exchange::of(request.extensions_mut());
    let response = call(&app, request).await;
    drain.start_within(SECOND);
    let (text, error) = {
        let mut body = response.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let error = body.frame().await.unwrap().unwrap_err();
        drain.dead().await;
        assert!(body.frame().await.is_none(), "no farewell after a failure");
        (first, error)
    };
    assert_eq!(
        (&text[..], error.to_string().as_str()),
        (&b"data: 1\n\n"[..], "disk")
    );
    assert_eq!(fault.cause().unwrap().kind(), FaultKind::Io);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_complete_gets_no_farewell() {
    let drain = drain();
    let app = drain.farewell().layer(service(|_| async {
        stream(SSE, MockBody::new([mock::data("data: 1\n\n")]).tells_end())
    }));
    let mut body = call(&app, get("/")).await.into_body();
    body.frame().await.unwrap().unwrap();
    assert!(body.is_end_stream());
    drain.start_within(Duration::ZERO);
    let hold = DrainToken::new(&drain);
    drain.dead().await;
    // As HTTP/2 may.
    assert!(body.frame().await.is_none());
    assert_eq!(drain.stats().ended_early, 0);
    drop(hold);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_added_where_no_body_is_sent() {
    let drain = drain();
    let _hold = DrainToken::new(&drain);
    drain.start_within(Duration::ZERO);
    drain.dead().await;
    for status in [204, 304] {
        let app = drain.farewell().layer(service(move |_| async move {
            let mut response = stream(SSE, MockBody::new([]));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        }));
        assert_eq!(
            read(call(&app, get("/")).await.into_body()).await,
            (String::new(), None)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_has_ended_is_kept_until_the_layers_outside_have_judged_it() {
    let drain = Drain::builder().build();
    for (content_type, last) in [
        (SSE, vec![]),
        ("text/plain", vec![mock::trailer("x-sum", "1")]),
    ] {
        let steps = std::iter::once(mock::data("data: 1\n\n")).chain(last);
        let body = MockBody::new(steps);
        let probe = body.probe();
        let response =
            std::sync::Arc::new(parking_lot::Mutex::new(Some(stream(content_type, body))));
        let app = drain.farewell().layer(service(move |_| {
            let response = response.lock().take().expect("one request");
            async { response }
        }));
        let mut body = std::pin::pin!(call(&app, get("/")).await.into_body());
        while body.frame().await.is_some() {}
        assert!(!probe.is_dropped(), "the layers inside have not reported");
        assert!(body.frame().await.is_none() && body.is_end_stream());
        assert!(!probe.polled_after_end());
    }
}

#[tokio::test(start_paused = true)]
async fn the_fault_is_known_before_the_body_inside_is_dropped() {
    let drain = drain();
    let mut request = get("/");
    let fault = Exchange::of(request.extensions_mut());
    let app = drain.farewell().layer(service(|_| async {
        stream(SSE, MockBody::new([mock::hang()]).panics_in(PanicIn::Drop))
    }));
    let mut body = call(&app, request).await.into_body();
    let _hold = DrainToken::new(&drain);
    drain.start_within(Duration::ZERO);
    drain.dead().await;
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        futures_util::FutureExt::now_or_never(body.frame())
    }));
    assert!(dropped.is_err(), "the script panics in its drop");
    assert_eq!(fault.cause().unwrap().kind(), FaultKind::Drain);
}

#[tokio::test(start_paused = true)]
async fn a_route_may_end_early_and_the_inner_layer_decides() {
    let early = |policy_inside: Option<Policy>| async move {
        let drain = Drain::builder()
            .advertise(SECOND)
            .deadline(20 * SECOND)
            .early_end_window(2 * SECOND)
            .build();
        let mut response = stream(SSE, ticking());
        if let Some(policy) = policy_inside {
            response.extensions_mut().insert(policy);
        }
        let start = Instant::now();
        let layer = drain.farewell().policy(Policy::EndEarly);
        let (text, _) = drained(&drain, layer, response).await;
        assert!(text.contains("event: drain"));
        start.elapsed()
    };
    let took = early(None).await;
    assert!(took > SECOND && took <= 3 * SECOND + 20 * MS, "{took:?}");
    assert_eq!(early(Some(Policy::RunToDeadline)).await, 20 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_another_server_can_continue_ends_early() {
    let early = |resumable: bool, on_layer: Option<Policy>| async move {
        let drain = Drain::builder()
            .advertise(SECOND)
            .deadline(20 * SECOND)
            .early_end_window(2 * SECOND)
            .build();
        let mut layer = drain.farewell();
        if let Some(policy) = on_layer {
            layer = layer.policy(policy);
        }
        let app = layer.layer(service(move |request: Request<MockBody>| {
            let exchange = Exchange::get(request.extensions()).expect("the layer's");
            if resumable {
                exchange.claim(Claim::Resumable);
            }
            async { stream(SSE, ticking()) }
        }));
        let response = call(&app, get("/")).await;
        let _hold = DrainToken::new(&drain);
        let start = Instant::now();
        drain.start();
        let (text, _) = read(response.into_body()).await;
        assert!(text.contains("event: drain"));
        start.elapsed()
    };
    let took = early(true, None).await;
    assert!(took > SECOND && took <= 3 * SECOND + 20 * MS, "{took:?}");
    assert_eq!(early(false, None).await, 20 * SECOND);
    let chosen = Some(Policy::RunToDeadline);
    assert_eq!(early(true, chosen).await, 20 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_innermost_of_two_layers_ends_the_stream() {
    let drain = Drain::builder()
        .advertise(SECOND)
        .deadline(20 * SECOND)
        .early_end_window(SECOND)
        .build();
    let inner = drain
        .farewell()
        .layer(service(|_| async { stream(SSE, ticking()) }));
    let app = drain.farewell().policy(Policy::EndEarly).layer(inner);
    let response = call(&app, get("/")).await;
    let _hold = DrainToken::new(&drain);
    let start = Instant::now();
    drain.start();
    let (text, _) = read(response.into_body()).await;
    assert_eq!(start.elapsed(), 20 * SECOND);
    assert_eq!(text.matches("event: drain").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn early_means_between_two_records() {
    let drain = Drain::builder()
        .advertise(SECOND)
        .deadline(60 * SECOND)
        .early_end_window(Duration::ZERO)
        .build();
    // Above the cap, so half of it has been sent when the drain ends the stream.
    let long = "x".repeat(70_000);
    let body = MockBody::new([
        mock::data(format!("data: {long}")),
        mock::sleep(10 * SECOND),
        mock::data("\n"),
        mock::sleep(SECOND),
        mock::data("\ndata: next\n\n"),
        mock::hang(),
    ]);
    let start = Instant::now();
    let layer = drain.farewell().policy(Policy::EndEarly);
    let (text, error) = drained(&drain, layer, stream(SSE, body)).await;
    assert_eq!((start.elapsed(), error), (11 * SECOND, None));
    let kinds: Vec<_> = events(&text).into_iter().map(|event| event.0).collect();
    assert_eq!(kinds, ["", "", "drain"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_called_inside_of_an_open_record_is_woken_at_the_deadline_too() {
    let drain = Drain::builder()
        .advertise(SECOND)
        .deadline(5 * SECOND)
        .early_end_window(SECOND)
        .build();
    let open = format!("data: {}", "x".repeat(100_000));
    let body = MockBody::new([mock::data(open), mock::hang()]);
    let began = Instant::now();
    let layer = drain.farewell().policy(Policy::EndEarly);
    let (text, error) = drained(&drain, layer, stream(SSE, body)).await;
    assert_eq!(text.len(), 100_006);
    assert!(error.is_some());
    let took = began.elapsed();
    assert!(
        took >= 5 * SECOND && took < 5 * SECOND + 10 * MS,
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn off_it_ends_nothing() {
    let drain = drain();
    let body = MockBody::new([mock::data("da"), mock::sleep(10 * SECOND), mock::data("ta")]);
    let (text, error) = drained(&drain, FarewellLayer::off(), stream(SSE, body)).await;
    assert_eq!((text.as_str(), error), ("data", None));
}

/// A stalled client does not poll: it holds the drain until `settle` is over, and is then aborted.
#[tokio::test(start_paused = true)]
async fn a_stalled_reader_is_cut_and_the_others_have_their_farewell() {
    let drain = drain();
    let app = drain.layer().layer(
        drain
            .farewell()
            .layer(service(|_| async { stream(SSE, ticking()) })),
    );
    let stalled = call(&app, get("/")).await;
    let reading: Vec<_> =
        futures_util::future::join_all((0..10).map(|_| call(&app, get("/")))).await;
    let start = Instant::now();
    drain.start();
    let readers: Vec<_> = reading
        .into_iter()
        .map(|response| tokio::spawn(read(response.into_body())))
        .collect();
    drain.dead().await;
    assert_eq!(start.elapsed(), 5 * SECOND + 30 * MS);
    for reader in readers {
        assert!(reader.await.unwrap().0.contains("event: drain"));
    }
    let stats = drain.stats();
    assert_eq!((stats.served, stats.ended_early, stats.aborted), (0, 10, 1));
    sleep(SECOND).await;
    drop(stalled);
    assert_eq!(
        (drain.in_flight(), drain.stats().served),
        (0, 0),
        "aborted is not served"
    );
}
