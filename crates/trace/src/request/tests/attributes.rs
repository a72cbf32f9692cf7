//! Attributes follow the conventions.

use http::{Request, Response, Version};
use opentelemetry::trace::{SpanKind, Status};
use tower::{Layer, ServiceExt};
use tower_stream_core::{
    Exchange, PeerAddr,
    mock::{self, MockBody},
};

use crate::{
    ClientAddress, RequestSpanLayer,
    testing::{Traces, attr, float, int, read, respond, text},
};

#[tokio::test]
async fn the_conventions_are_kept() {
    let traces = Traces::lean();
    let body = MockBody::new([mock::data("hello "), mock::data("world")]);
    let mut request = Request::builder()
        .uri("/greet?password=1")
        .version(Version::HTTP_2)
        .header("host", "example.org:8443")
        .header("user-agent", "curl/8")
        .body(())
        .unwrap();
    Exchange::of(request.extensions_mut()).set_request_id("r-1".parse().unwrap());
    let layer = RequestSpanLayer::new().scheme("https");
    let service = layer.layer(respond(Response::new(body)));
    let response = service.oneshot(request).await.unwrap();
    read(response.into_body()).await.unwrap();

    let span = traces.request();
    assert_eq!(span.name, "GET");
    assert_eq!(span.span_kind, SpanKind::Server);
    assert_eq!(span.status, Status::Unset);
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/greet"),
        ("url.scheme", "https"),
        ("network.protocol.version", "2"),
        ("server.address", "example.org"),
        ("user_agent.original", "curl/8"),
        ("request_id", "r-1"),
        ("stream.outcome", "complete"),
    ] {
        assert_eq!(text(&span, key).as_deref(), Some(value), "{key}");
    }
    for (key, value) in [
        ("server.port", 8443),
        ("http.response.status_code", 200),
        ("http.response.body.size", 11),
        ("stream.chunks", 2),
    ] {
        assert_eq!(int(&span, key), value, "{key}");
    }
    assert!(float(&span, "stream.ttfc_ms") >= 0.0);
    for key in [
        "url.query",
        "error.type",
        "http.route",
        "http.request.method_original",
    ] {
        assert!(attr(&span, key).is_none(), "{key}");
    }
}

#[tokio::test]
async fn the_query_is_recorded_only_when_asked_for() {
    let traces = Traces::lean();
    let layer = RequestSpanLayer::new().record_query(true);
    let request = Request::builder()
        .uri("http://[::1]:80/?a=1&Sig=x")
        .body(())
        .unwrap();
    let service = layer.layer(respond(Response::new(MockBody::new([]))));
    read(service.oneshot(request).await.unwrap().into_body())
        .await
        .unwrap();
    let span = traces.request();
    assert_eq!(text(&span, "url.query").unwrap(), "a=1&Sig=REDACTED");
    assert_eq!(text(&span, "server.address").unwrap(), "::1");
}

#[tokio::test]
async fn an_unknown_method_cannot_choose_names() {
    let traces = Traces::lean();
    let request = Request::builder().method("BREW").body(()).unwrap();
    let service = RequestSpanLayer::new().layer(respond(Response::new(MockBody::new([]))));
    read(service.oneshot(request).await.unwrap().into_body())
        .await
        .unwrap();
    let span = traces.request();
    assert_eq!(span.name, "HTTP");
    assert_eq!(text(&span, "http.request.method").unwrap(), "_OTHER");
    assert_eq!(text(&span, "http.request.method_original").unwrap(), "BREW");
}

#[tokio::test]
async fn a_query_is_a_known_method_and_the_peer_of_any_server_is_the_client() {
    let traces = Traces::lean();
    let peer: std::net::SocketAddr = "10.1.2.3:999".parse().unwrap();
    let request = Request::builder()
        .method("QUERY")
        .extension(PeerAddr(peer))
        .body(())
        .unwrap();
    let service = RequestSpanLayer::new().layer(respond(Response::new(MockBody::new([]))));
    read(service.oneshot(request).await.unwrap().into_body())
        .await
        .unwrap();
    let span = traces.request();
    assert_eq!(span.name, "QUERY");
    assert_eq!(text(&span, "http.request.method").unwrap(), "QUERY");
    assert!(attr(&span, "http.request.method_original").is_none());
    assert_eq!(text(&span, "client.address").unwrap(), "10.1.2.3");
}

#[tokio::test]
async fn behind_a_proxy_the_peer_is_the_proxy_and_the_client_is_whom_it_names() {
    let traces = Traces::lean();
    let peer: std::net::SocketAddr = "10.1.2.3:999".parse().unwrap();
    let request = Request::builder()
        .header("x-forwarded-for", "6.6.6.6, 192.0.2.60")
        .extension(PeerAddr(peer))
        .body(())
        .unwrap();
    let layer = RequestSpanLayer::new().client_address(ClientAddress::XForwardedFor(1));
    let service = layer.layer(respond(Response::new(MockBody::new([]))));
    read(service.oneshot(request).await.unwrap().into_body())
        .await
        .unwrap();
    let span = traces.request();
    assert_eq!(text(&span, "client.address").unwrap(), "192.0.2.60");
    assert_eq!(text(&span, "network.peer.address").unwrap(), "10.1.2.3");
    assert_eq!(int(&span, "network.peer.port"), 999);
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn axum_tells_the_route_and_the_client() {
    use axum::{Router, body::Body as AxumBody, extract::ConnectInfo, routing::get};
    use http_body_util::BodyExt;
    let traces = Traces::lean();
    let nested = Router::new().route("/{id}", get(|| async { "hi" }));
    let router = Router::new()
        .nest("/orders", nested)
        .layer(RequestSpanLayer::new());
    let peer: std::net::SocketAddr = "10.1.2.3:999".parse().unwrap();
    let request = Request::builder()
        .uri("/orders/17")
        .extension(ConnectInfo(peer))
        .body(AxumBody::empty())
        .unwrap();
    let response = router.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    let span = traces.request();
    assert_eq!(span.name, "GET /orders/{id}");
    assert_eq!(text(&span, "http.route").unwrap(), "/orders/{id}");
    assert_eq!(text(&span, "client.address").unwrap(), "10.1.2.3");
}

#[tokio::test]
async fn what_a_client_sends_is_cut() {
    let long = "u".repeat(300_000);
    let request = || {
        Request::builder()
            .method(format!("X{}", "M".repeat(5_000)).as_str())
            .uri(format!("/{}?{}", "p".repeat(30_000), "q".repeat(30_000)))
            .header("host", "h".repeat(5_000))
            .header("user-agent", &long)
            .body(())
            .unwrap()
    };
    let cut = [
        "http.request.method_original",
        "url.path",
        "url.query",
        "server.address",
        "user_agent.original",
    ];
    for (layer, limit) in [
        (RequestSpanLayer::new(), 1024),
        (RequestSpanLayer::new().attribute_value_limit(16), 16),
    ] {
        let traces = Traces::lean();
        let layer = layer.record_query(true);
        let service = layer.layer(respond(Response::new(MockBody::new([]))));
        let response = service.oneshot(request()).await.unwrap();
        read(response.into_body()).await.unwrap();
        let span = traces.request();
        for key in cut {
            assert_eq!(text(&span, key).unwrap().len(), limit, "{key}");
        }
    }
}
