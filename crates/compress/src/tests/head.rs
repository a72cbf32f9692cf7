//! Which responses are compressed, and what their heads say.

use http::{HeaderMap, StatusCode};
use http_body::SizeHint;

use super::*;
use crate::{Mode, Uncompressed};

fn body() -> MockBody {
    MockBody::new([mock::data("data: 1\n\n".repeat(200))])
}

fn coding_of(headers: &HeaderMap) -> Option<&str> {
    headers
        .get("content-encoding")
        .map(|value| value.to_str().unwrap())
}

/// The head of the response to a client that takes everything.
async fn head(change: impl FnOnce(&mut Response<MockBody>)) -> HeaderMap {
    let mut response = events([]);
    *response.body_mut() = body();
    change(&mut response);
    let response = asked(&CompressLayer::new(), request("*"), response).await;
    response.headers().clone()
}

fn set(name: &'static str, value: &'static str) -> impl FnOnce(&mut Response<MockBody>) {
    move |response| {
        let value = http::HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
}

#[tokio::test]
async fn what_speaks_of_other_bytes_goes() {
    let headers = head(|response| {
        set("content-length", "1800")(response);
        set("content-digest", "md5=:AAAA:")(response);
        set("accept-ranges", "bytes")(response);
        set("etag", "\"1\"")(response);
        set("vary", "origin")(response);
    });
    let headers = headers.await;
    assert!(coding_of(&headers).is_some());
    assert_eq!(headers["etag"], "W/\"1\"");
    assert_eq!(
        headers.get_all("vary").iter().collect::<Vec<_>>(),
        ["origin", "accept-encoding"]
    );
    for gone in ["content-length", "content-digest", "accept-ranges"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn what_is_left_alone_says_so() {
    let untouched = |headers: HeaderMap| {
        let coding = coding_of(&headers).filter(|coding| *coding != "zip");
        assert!(
            coding.is_none() && !headers.contains_key("vary"),
            "{headers:?}"
        );
    };
    untouched(head(set("content-encoding", "zip")).await);
    untouched(head(set("content-range", "bytes 0-9/10")).await);
    untouched(head(set("content-type", "image/png")).await);
    untouched(head(set("content-type", "application/grpc")).await);
    untouched(head(set("content-type", "application/grpc-web+proto")).await);
    untouched(head(set("cache-control", "no-cache, no-transform")).await);
    untouched(head(|response| _ = response.extensions_mut().insert(Uncompressed)).await);
    for status in [204, 206, 304] {
        let status = StatusCode::from_u16(status).unwrap();
        untouched(head(|response| *response.status_mut() = status).await);
    }
    let short = |response: &mut Response<MockBody>| {
        let body = std::mem::replace(response.body_mut(), MockBody::new([]));
        *response.body_mut() = body.with_size_hint(SizeHint::with_exact(1023));
    };
    untouched(head(short).await);
    let request = Request::head("/")
        .header("accept-encoding", "*")
        .body(())
        .unwrap();
    let response = asked(&CompressLayer::new(), request, events([])).await;
    untouched(response.headers().clone());
}

#[tokio::test]
async fn a_client_without_a_coding_has_identity_and_a_cache_knows() {
    for accepted in [
        None,
        Some("identity"),
        Some("deflate"),
        Some("identity;q=0"),
        Some(";;"),
    ] {
        let request = match accepted {
            Some(accepted) => request(accepted),
            None => Request::new(()),
        };
        let response = asked(&CompressLayer::new(), request, events([mock::data("a")])).await;
        assert_eq!(coding_of(response.headers()), None, "{accepted:?}");
        assert_eq!(response.headers()["vary"], "accept-encoding");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "a");
    }
}

#[tokio::test]
async fn a_switch_is_for_responses_that_begin_later() {
    let coding = codings().next().expect("a coding");
    let layer = CompressLayer::new();
    let switch = layer.switch();
    let steps = [mock::data("a"), mock::pending(), mock::data("b")];
    let mut running = encoded(&layer.clone(), coding, events(steps)).await;
    let mut decoder = Decoder::new(coding);
    let first = running.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(decoder.read(&first), b"a");

    switch.set_mode(Mode::Off);
    let response = asked(&layer, request("*"), events([mock::data("a")])).await;
    assert!(!response.headers().contains_key("vary"));
    assert_eq!(coding_of(response.headers()), None);
    let rest = running.collect().await.unwrap().to_bytes();
    assert_eq!(decoder.read(&rest), b"b");
    assert!(decoder.is_whole());

    for (mode, on) in [(Mode::On, true), (Mode::Adaptive, true), (Mode::Off, false)] {
        switch.set_mode(mode);
        assert_eq!(switch.settings().current_mode(), mode);
        let response = asked(&layer, request("*"), events([mock::data("a")])).await;
        assert_eq!(coding_of(response.headers()).is_some(), on, "{mode}");
    }
    for coding in codings() {
        switch.set(Settings::on().codings([(coding, 1)]));
        let response = asked(&layer, request("*"), events([mock::data("a")])).await;
        assert_eq!(coding_of(response.headers()), Some(coding.as_str()));
    }
    let off = CompressLayer::off();
    off.switch().set(Settings::on());
    let response = asked(&off, request("*"), events([mock::data("a")])).await;
    assert_eq!(coding_of(response.headers()), None);
}

#[tokio::test]
async fn a_route_opts_out() {
    let service = service_fn(async |_: Request<()>| Ok::<_, Infallible>(events([mock::data("a")])));
    let service = CompressLayer::new().layer(Uncompressed.layer(service));
    let response = service.oneshot(request("*")).await.unwrap();
    assert_eq!(coding_of(response.headers()), None);
}
