//! What passes unchanged, and which headers and trailers remain when bytes are inserted.

use super::*;

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
        SseStamper::new(None, 0).stamp(chunk.clone()).as_ptr(),
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
    let has_length = |r: &Response<ResponseBody<Full<Bytes>, SequenceLayer>>| {
        r.headers().contains_key(header::CONTENT_LENGTH)
    };
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
    // HEAD loses the header as well, because GET would.
    let mut head = request();
    *head.method_mut() = Method::HEAD;
    assert!(!has_length(
        &through(SequenceLayer::new(), head, with_length(200, "")).await
    ));
    let mut empty = with_length(200, "");
    empty.headers_mut().insert(header::CONTENT_LENGTH, 0.into());
    let empty = through(SequenceLayer::new(), request(), empty).await;
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
        let kind = tower_stream_core::Cause::of(&*error).kind();
        assert_eq!(kind, tower_stream_core::FaultKind::ShortBody, "{error}");
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
