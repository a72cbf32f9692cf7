use super::*;
use http::header;
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_stream_body::{
    BoxError,
    mock::{self, MockBody},
};

fn response<B>(content_type: &str, body: B) -> Response<B> {
    Response::builder()
        .header(header::CONTENT_TYPE, content_type)
        .body(body)
        .unwrap()
}

fn request() -> Request<()> {
    let mut request = Request::new(());
    request
        .extensions_mut()
        .insert("r1".parse::<RequestId>().unwrap());
    request
}

async fn through<B>(
    layer: SequenceLayer,
    request: Request<()>,
    response: Response<B>,
) -> Response<SequenceBody<B>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut response = Some(response);
    let inner = service_fn(move |_: Request<()>| {
        std::future::ready(Ok::<_, BoxError>(response.take().unwrap()))
    });
    ServiceBuilder::new()
        .layer(layer)
        .service(inner)
        .oneshot(request)
        .await
        .unwrap()
}

/// The frames that come out for these chunks.
async fn frames(layer: SequenceLayer, content_type: &str, chunks: &[&[u8]]) -> Vec<Bytes> {
    let steps = chunks
        .iter()
        .map(|chunk| mock::data(Bytes::copy_from_slice(chunk)));
    let body = through(
        layer,
        request(),
        response(content_type, MockBody::new(steps)),
    )
    .await
    .into_body();
    let mut body = std::pin::pin!(body);
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(frame.unwrap().into_data().unwrap());
    }
    frames
}

async fn text(layer: SequenceLayer, content_type: &str, chunks: &[&str]) -> String {
    let chunks: Vec<&[u8]> = chunks.iter().map(|chunk| chunk.as_bytes()).collect();
    let all = frames(layer, content_type, &chunks).await.concat();
    String::from_utf8(all).unwrap()
}

async fn sse(input: &str) -> String {
    text(SequenceLayer::new(), "text/event-stream", &[input]).await
}

#[tokio::test]
async fn each_event_without_an_id_gets_its_number() {
    let name = SequenceLayer::new().event_id(EventId::RequestAndNumber);
    let two = ["data: a\n\n", "event: e\ndata: b\ndata: c\n\n"];
    assert_eq!(
        text(SequenceLayer::new(), "text/event-stream", &two).await,
        "data: a\nid: 1\n\nevent: e\ndata: b\ndata: c\nid: 2\n\n"
    );
    assert_eq!(
        text(name, "text/event-stream", &two).await,
        "data: a\nid: r1-1\n\nevent: e\ndata: b\ndata: c\nid: r1-2\n\n"
    );
    // an id of its own stays, and its event counts
    assert_eq!(
        sse("id: x\ndata\n\ndata:b\n\nid\ndata: c\n\n").await,
        "id: x\ndata\n\ndata:b\nid: 2\n\nid\ndata: c\n\n"
    );
}

#[tokio::test]
async fn what_a_client_never_sees_is_no_event() {
    let input =
        ": comment\n\nretry: 5\n\nevent: e\n\nid: 7\n\n\n\ndatax: 1\n\nx data: 1\n\nidx\ndata\n\n";
    assert_eq!(
        sse(input).await,
        input.replace("idx\ndata\n", "idx\ndata\nid: 1\n")
    );
    // unended, so never dispatched
    assert_eq!(sse("data: a\n").await, "data: a\n");
    assert_eq!(sse("data: a").await, "data: a");
    // a NUL makes clients ignore the field
    assert_eq!(sse("id: a\0\ndata\n\n").await, "id: a\0\ndata\nid: 1\n\n");
}

#[tokio::test]
async fn every_line_end_and_a_byte_order_mark() {
    assert_eq!(
        sse("\u{feff}data: a\r\n\r\ndata: b\r\rdata: c\n\r\n").await,
        "\u{feff}data: a\r\nid: 1\n\r\ndata: b\rid: 2\n\rdata: c\nid: 3\n\r\n"
    );
    // not at the start it is part of a field's name
    assert_eq!(
        sse("data\n\n\u{feff}data\n\n").await,
        "data\nid: 1\n\n\u{feff}data\n\n"
    );
}

const SAMPLES: [&str; 7] = [
    "data: 1\n\ndata: 2\n\n",
    "data: 1\r\n\r\ndata: 2\r\n\r\nid: 1\r\n\r\n",
    "data\r\rid: a\r\nevent: b\n\ndata:\r\n\n",
    "\u{feff}data: 1\n\n: comment\n\n\n\nretry: 3\n\ndata: \u{1f600}\u{e9}\nid\n\n",
    "\u{feff}\u{feff}data\n\ndata\n\n\r\n\r",
    "id: \0\ndata\n\nid: 123456789\0\ndata\n\nid: 123456789\ndata\n\n",
    "dat\n\ndataa\n\ni\n\nidd\ndata: id: data: 1\n\n",
];

#[test]
fn every_split_gives_the_stamps_of_the_whole_and_holds_nothing() {
    let stamped = |pieces: &[&[u8]]| {
        let mut stamper = SseStamper::new(None);
        let mut out = Vec::new();
        for piece in pieces {
            let stamped = stamper.stamp(Bytes::copy_from_slice(piece));
            assert!(stamped.ends_with(&piece[piece.len().saturating_sub(1)..]));
            assert!(stamped.len() >= piece.len());
            out.extend_from_slice(&stamped);
        }
        String::from_utf8(out).unwrap()
    };
    for sample in SAMPLES {
        let bytes = sample.as_bytes();
        let whole = stamped(&[bytes]);
        for one in 0..=bytes.len() {
            for two in one..=bytes.len() {
                let pieces = [&bytes[..one], &bytes[one..two], &bytes[two..]];
                assert_eq!(stamped(&pieces), whole, "{sample:?} cut at {one} and {two}");
            }
        }
        assert_eq!(stamped(&bytes.chunks(1).collect::<Vec<_>>()), whole);
    }
}

/// What a client makes of a stream (WHATWG HTML section 9.2.6): the data and the last event id of each event.
fn client(stream: &str) -> Vec<(String, String)> {
    let stream = stream.strip_prefix('\u{feff}').unwrap_or(stream);
    let stream = stream.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = stream.split('\n').collect();
    lines.pop();
    let (mut events, mut data, mut last_id) = (Vec::new(), String::new(), String::new());
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "" if line.is_empty() && !data.is_empty() => {
                events.push((std::mem::take(&mut data), last_id.clone()));
            }
            "data" => data = format!("{data}{value}\n"),
            "id" if !value.contains('\0') => value.clone_into(&mut last_id),
            _ => {}
        }
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn a_client_sees_the_same_events_with_the_right_ids(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("data"), Just("data: x"), Just("id"), Just("id: own"), Just("id: \0"), Just(":"), Just("retry: 1"),
                Just("\n"), Just("\r"), Just("\r\n"), Just("\n\n"), Just("\r\n\r\n"), Just("\u{feff}"),
            ],
            0..24,
        ),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        let input = parts.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|at| at.index(input.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(input.len());
        let mut stamper = SseStamper::new(None);
        let (mut out, mut from) = (Vec::new(), 0);
        for cut in cuts {
            out.extend_from_slice(&stamper.stamp(Bytes::copy_from_slice(&input.as_bytes()[from..cut])));
            from = cut;
        }
        let out = String::from_utf8(out).unwrap();
        let (before, after) = (client(&input), client(&out));
        prop_assert_eq!(before.len(), after.len());
        for (n, ((data, id), (data_after, id_after))) in before.iter().zip(&after).enumerate() {
            prop_assert_eq!(data, data_after);
            let stamped = (n + 1).to_string();
            prop_assert!(*id_after == stamped || id_after == id, "{} at {}: {:?}", id_after, n, out);
        }
    }
}

#[tokio::test]
async fn objects_get_a_member_and_nothing_else_changes() {
    let layer = SequenceLayer::new().json_lines(true);
    let input = [
        "{\"a\":{\"b\":1}}\n{}\n",
        " { } \n[{}]\n1\n\"{\"\n\n{\r\n",
        "{ \"a\":1}\n{oops}\n{",
        "",
        "\"c\":2}\n{\"d\":3}",
    ];
    assert_eq!(
        text(layer, "application/x-ndjson", &input).await,
        "{\"sequence_id\":1,\"a\":{\"b\":1}}\n{\"sequence_id\":2}\n \
         { \"sequence_id\":3} \n[{}]\n1\n\"{\"\n\n{\r\n\
         { \"sequence_id\":4,\"a\":1}\n{oops}\n{\
         \"sequence_id\":6,\"c\":2}\n{\"sequence_id\":7,\"d\":3}"
    );
}

#[tokio::test]
async fn texts_of_a_json_sequence_may_have_many_lines() {
    let layer = SequenceLayer::new().json_lines(true);
    let input = [
        "\x1e{\n \"a\":\n{\"b\":1}\n}\n\x1e\x1e[\n{}\n]\n\x1e{",
        "}\n",
    ];
    assert_eq!(
        text(layer, "application/json-seq", &input).await,
        "\x1e{\n \"sequence_id\":1,\"a\":\n{\"b\":1}\n}\n\x1e\x1e[\n{}\n]\n\x1e{\"sequence_id\":2}\n"
    );
}

proptest! {
    #[test]
    fn json_stamps_do_not_depend_on_the_cuts(
        input in "([{}\"a,: \n\x1e\\[]|\\{\"a\":1\\}\n){0,24}",
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        for (lines, make) in [(true, JsonStamper::lines as fn() -> _), (false, JsonStamper::text_sequence)] {
            let stamped = |cuts: &[usize]| {
                let (mut stamper, mut n, mut out, mut from) = (make(), 0, Vec::new(), 0);
                for cut in cuts {
                    let piece = Bytes::copy_from_slice(&input.as_bytes()[from..*cut]);
                    out.extend_from_slice(&stamper.stamp(piece, || { n += 1; n }));
                    from = *cut;
                }
                String::from_utf8(out).unwrap()
            };
            let whole = stamped(&[input.len()]);
            let mut cuts: Vec<usize> = cuts.iter().map(|at| at.index(input.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(input.len());
            prop_assert_eq!(stamped(&cuts), &*whole);
            // a line that was JSON is JSON, and says the same but for the new member
            if !lines { continue }
            for (before, after) in input.lines().zip(whole.lines()) {
                let (Ok(before), Ok(mut after)) = (
                    serde_json::from_str::<serde_json::Value>(before),
                    serde_json::from_str::<serde_json::Value>(after),
                ) else {
                    prop_assert!(serde_json::from_str::<serde_json::Value>(before).is_err());
                    continue;
                };
                if let Some(object) = after.as_object_mut() {
                    prop_assert!(object.remove("sequence_id").is_some());
                }
                prop_assert_eq!(before, after);
            }
        }
    }
}

#[tokio::test]
async fn what_has_no_records_passes_untouched() {
    for (layer, content_type, input) in [
        (
            SequenceLayer::new(),
            "application/octet-stream",
            "data: a\n\n",
        ),
        (SequenceLayer::new(), "application/x-ndjson", "{}\n"),
        (
            SequenceLayer::new().event_id(None),
            "text/event-stream",
            "data: a\n\n",
        ),
        (SequenceLayer::off(), "text/event-stream", "data: a\n\n"),
        (
            SequenceLayer::new().json_lines(true),
            "application/json",
            "{}\n",
        ),
    ] {
        let mut head = response(content_type, Full::new(Bytes::from(input)));
        let length = input.len().to_string();
        head.headers_mut()
            .insert(header::CONTENT_LENGTH, length.parse().unwrap());
        let data = input.as_ptr();
        let response = through(layer, request(), head).await;
        assert_eq!(response.headers()[header::CONTENT_LENGTH], *length);
        assert_eq!(
            response.body().size_hint().exact(),
            Some(input.len() as u64)
        );
        let passed = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!((passed.as_ptr(), passed.len()), (data, input.len()));
    }
}

#[tokio::test]
async fn a_chunk_without_a_stamp_is_not_copied() {
    let chunk = Bytes::from("data: half");
    assert_eq!(
        SseStamper::new(None).stamp(chunk.clone()).as_ptr(),
        chunk.as_ptr()
    );
    let mut json = JsonStamper::lines();
    assert_eq!(json.stamp(chunk.clone(), || 1).as_ptr(), chunk.as_ptr());
}

#[tokio::test]
async fn the_length_goes_only_where_bytes_may_change() {
    let with_length = |status: u16, body: &'static str| {
        let mut head = response("text/event-stream", Full::new(Bytes::from(body)));
        *head.status_mut() = StatusCode::from_u16(status).unwrap();
        head.headers_mut()
            .insert(header::CONTENT_LENGTH, "9".parse().unwrap());
        head
    };
    let has_length =
        |r: &Response<SequenceBody<Full<Bytes>>>| r.headers().contains_key(header::CONTENT_LENGTH);
    let stamped = through(
        SequenceLayer::new(),
        request(),
        with_length(200, "data: a\n\n"),
    )
    .await;
    assert!(!has_length(&stamped));
    assert_eq!(stamped.body().size_hint().lower(), 9);
    assert_eq!(stamped.body().size_hint().upper(), None);
    assert!(!stamped.body().is_end_stream());

    let partial = through(
        SequenceLayer::new(),
        request(),
        with_length(206, "data: a\n\n"),
    )
    .await;
    assert!(has_length(&partial));
    // a GET would have lost it, so HEAD does
    let mut head = request();
    *head.method_mut() = Method::HEAD;
    assert!(!has_length(
        &through(SequenceLayer::new(), head, with_length(200, "")).await
    ));
    let empty = through(SequenceLayer::new(), request(), with_length(200, "")).await;
    assert!(has_length(&empty));
    assert!(empty.body().is_end_stream());
}

#[tokio::test]
async fn trailers_errors_and_pending_pass() {
    let body = MockBody::new([
        mock::data("data: a\n"),
        mock::pending(),
        mock::data("\n"),
        mock::trailer("x-end", "yes"),
    ]);
    let collected = through(
        SequenceLayer::new(),
        request(),
        response("text/event-stream", body),
    )
    .await
    .into_body()
    .collect()
    .await
    .unwrap();
    assert_eq!(collected.trailers().unwrap()["x-end"], "yes");
    assert_eq!(collected.to_bytes(), "data: a\nid: 1\n\n");

    let body = MockBody::new([mock::data("data: a\n"), mock::error("broken")]);
    let error = through(
        SequenceLayer::new(),
        request(),
        response("text/event-stream", body),
    )
    .await
    .into_body()
    .collect()
    .await
    .unwrap_err();
    assert_eq!(error.to_string(), "broken");
}

#[tokio::test]
async fn a_chunk_draws_one_number_whatever_it_holds() {
    for (layer, content_type, chunks) in [
        (SequenceLayer::new(), "text/plain", ["a", "b"]),
        (
            SequenceLayer::new(),
            "text/event-stream",
            ["data\n\ndata\n\n", "data"],
        ),
        (
            SequenceLayer::new().json_lines(true),
            "application/jsonl",
            ["[]\n", "{}\n"],
        ),
    ] {
        let mut request = request();
        let sequence = Sequence::new();
        request.extensions_mut().insert(sequence.clone());
        let body = MockBody::new(chunks.map(mock::data));
        let mut body = through(layer, request, response(content_type, body))
            .await
            .into_body();
        assert!(!sequence.claim_chunks());
        for n in 1..=2 {
            body.frame().await.unwrap().unwrap();
            assert_eq!(sequence.last(), n, "{content_type}");
        }
    }
}

#[tokio::test]
async fn chunks_numbered_inside_are_not_numbered_again() {
    let mut request = request();
    let sequence = Sequence::new();
    assert!(sequence.claim_chunks());
    sequence.next();
    request.extensions_mut().insert(sequence.clone());
    let body = MockBody::new([mock::data("{}\n")]);
    let layer = SequenceLayer::new().json_lines(true);
    let body = through(layer, request, response("application/jsonl", body)).await;
    let stamped = body.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(stamped, "{\"sequence_id\":1}\n");
    assert_eq!(sequence.last(), 1);
}

#[tokio::test]
async fn used_alone_it_begins_a_sequence_that_others_find() {
    let inner = service_fn(|request: Request<()>| async move {
        assert_eq!(request.extensions().get::<Sequence>().unwrap().last(), 0);
        Ok::<_, BoxError>(Response::new(Full::new(Bytes::new())))
    });
    let service = ServiceBuilder::new()
        .layer(SequenceLayer::new().event_id(EventId::RequestAndNumber))
        .service(inner);
    service.oneshot(Request::new(())).await.unwrap();
}

#[tokio::test]
async fn an_error_of_the_inner_service_passes() {
    let inner = service_fn(|_: Request<()>| async {
        Err::<Response<Full<Bytes>>, _>(BoxError::from("down"))
    });
    let service = ServiceBuilder::new()
        .layer(SequenceLayer::new())
        .service(inner);
    assert_eq!(
        service.oneshot(request()).await.unwrap_err().to_string(),
        "down"
    );
}

#[tokio::test]
async fn a_body_that_ends_before_its_declared_length_fails() {
    for (tells_end, end) in [(false, None), (true, None), (false, Some("x-sum"))] {
        let end = end.map(|name| mock::trailer(name, "1"));
        let steps = std::iter::once(mock::data("data: 1\n\n")).chain(end);
        let body = MockBody::new(steps);
        let body = if tells_end { body.tells_end() } else { body };
        let mut response = response("text/event-stream", body);
        let length = header::HeaderValue::from_static("99");
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
        let response = through(SequenceLayer::new(), request(), response).await;
        assert_eq!(response.headers().get(header::CONTENT_LENGTH), None);
        let mut body = std::pin::pin!(response.into_body());
        assert!(body.frame().await.unwrap().unwrap().is_data());
        assert!(!body.is_end_stream(), "the error is still to come");
        let error = body.frame().await.unwrap().unwrap_err();
        let kind = tower_stream_body::Cause::of(&*error).kind();
        assert_eq!(kind, tower_stream_body::FaultKind::ShortBody, "{error}");
    }
}

#[tokio::test]
async fn a_digest_in_the_trailers_goes_where_bytes_change_and_other_trailers_stay() {
    for (content_type, kept) in [("text/event-stream", false), ("text/plain", true)] {
        let trailers = http::HeaderMap::from_iter(
            [("content-digest", "md5=:AAAA:"), ("x-sum", "1")].map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    header::HeaderValue::from_static(value),
                )
            }),
        );
        let steps = [mock::data("data: 1\n\n"), mock::Step::Trailers(trailers)];
        let response = response(content_type, MockBody::new(steps));
        let response = through(SequenceLayer::new(), request(), response).await;
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().unwrap();
        assert_eq!(trailers["x-sum"], "1");
        assert_eq!(
            trailers.contains_key("content-digest"),
            kept,
            "{content_type}"
        );
    }
    let only = MockBody::new([
        mock::data("data: 1\n\n"),
        mock::trailer("content-digest", "md5=:AAAA:"),
    ]);
    let response = response("text/event-stream", only);
    let response = through(SequenceLayer::new(), request(), response).await;
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers(), None);
}
