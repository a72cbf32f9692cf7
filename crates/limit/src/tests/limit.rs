//! How many streams are admitted, and what the others are told.

use std::time::Duration;

use tower_stream_core::{Exchange, Refused};

use super::*;
use crate::{KeyBy, Rate, StreamLimitLayer, StreamPermit};

#[tokio::test]
async fn a_permit_lasts_to_the_end_of_the_body_and_that_of_tower_to_the_head() {
    let limit = StreamLimitLayer::new().streams(1);
    let service = limit.layer(Origin::default());
    let first = send(&service, get("/")).await;
    assert_eq!(limit.stats().in_use, 1);
    let refused = send(&service, get("/")).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.extensions().get::<Refused>().is_some());
    assert_eq!(header(&refused, "content-type"), "application/problem+json");
    assert_eq!(header(&refused, "cache-control"), "no-store");
    let wait: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((2..=4).contains(&wait), "{wait}");
    assert!(text(refused).await.contains("\"status\":503"));
    assert_eq!(text(first).await, "ab");
    assert_eq!(limit.stats().in_use, 0);
    assert_eq!(send(&service, get("/")).await.status(), 200);
    assert_eq!(limit.stats().refused_streams, 1);

    // The peer admits any number of streams, one head after the other.
    let peer = tower::limit::ConcurrencyLimit::new(Origin::default(), 1);
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(send(&peer, get("/")).await);
    }
    // And so does this layer, if it is told to.
    let limit = StreamLimitLayer::new().streams(1).until_head();
    let service = limit.layer(Origin::default());
    for _ in 0..3 {
        let response = send(&service, get("/")).await;
        assert_eq!(
            (response.status(), limit.stats().in_use),
            (StatusCode::OK, 0)
        );
    }
    drop(open);
}

#[tokio::test]
async fn each_key_has_its_limit_and_nobody_takes_the_slots_of_another() {
    let limit = StreamLimitLayer::new().streams(3).streams_per_key(2);
    let service = limit.layer(Origin::default());
    let mut open = Vec::new();
    for (peer, status) in [
        ("10.0.0.1:1", 200),
        ("10.0.0.1:2", 200),
        ("10.0.0.1:3", 429),
        ("10.0.0.2:1", 200),
        ("10.0.0.2:1", 503),
        ("10.0.0.1:3", 429),
    ] {
        let response = send(&service, from(peer, "/")).await;
        assert_eq!(response.status(), status, "{peer}");
        open.push(response);
    }
    let stats = limit.stats();
    assert_eq!((stats.in_use, stats.keys), (3, 2));
    assert_eq!((stats.refused_key, stats.refused_streams), (2, 1));
    drop(open);
    // A request that was refused because of all has given back the slot of its key.
    let mut open = Vec::new();
    for status in [200, 200, 429] {
        let response = send(&service, from("10.0.0.2:9", "/")).await;
        assert_eq!(response.status(), status);
        open.push(response);
    }
}

#[tokio::test]
async fn zero_refuses_all_and_off_and_exempt_requests_are_not_counted() {
    for (limit, status) in [
        (StreamLimitLayer::new().streams(0), 503),
        (StreamLimitLayer::new().streams_per_key(0), 429),
        (StreamLimitLayer::off().streams(0), 200),
        (StreamLimitLayer::new(), 200),
        (
            StreamLimitLayer::new()
                .streams(0)
                .exempt(|head| head.uri.path() == "/"),
            200,
        ),
    ] {
        let service = limit.layer(Origin::default());
        let response = send(&service, get("/")).await;
        assert_eq!(response.status(), status, "{limit:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_table_counts_new_keys_together_and_leaves_known_ones_alone() {
    let key = || KeyBy::header("x-key".parse().unwrap());
    let limit = StreamLimitLayer::new()
        .streams_per_key(1)
        .key(key())
        .remember(100, Duration::from_secs(60));
    let service = limit.layer(Origin::default());
    let with = |value: String| Request::get("/").header("x-key", value).body(()).unwrap();
    let known = send(&service, with("known".into())).await;
    drop(known);
    for n in 0..10_000 {
        let response = send(&service, with(n.to_string())).await;
        assert_eq!(response.status(), 200);
    }
    assert_eq!(limit.stats().keys, 100);
    let invented = send(&service, with("invented".into())).await;
    assert_eq!(invented.status(), 200);
    assert_eq!(send(&service, with("other".into())).await.status(), 429);
    assert_eq!(send(&service, with("known".into())).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_told_in_each_response_and_refused_over_it() {
    let limit = StreamLimitLayer::new().rate_per_key(Rate::per_second(2).burst(3));
    let service = limit.layer(Origin::default());
    for left in [2, 1, 0] {
        let response = send(&service, from("10.0.0.1:1", "/")).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "ratelimit-policy"), "\"default\";q=3;w=2");
        let reset = [2, 1, 1][left];
        let told = format!("\"default\";r={left};t={reset}");
        assert_eq!(header(&response, "ratelimit"), told);
    }
    let refused = send(&service, from("10.0.0.1:1", "/")).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(header(&refused, "ratelimit"), "\"default\";r=0;t=1");
    let wait: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    assert_eq!(send(&service, from("10.0.0.2:1", "/")).await.status(), 200);
    tokio::time::advance(Duration::from_millis(501)).await;
    for status in [200, 429] {
        let response = send(&service, from("10.0.0.1:1", "/")).await;
        assert_eq!(response.status(), status);
    }
    assert_eq!(limit.stats().refused_rate, 2);
}

#[test]
#[should_panic(expected = "a rate of 0 requests")]
fn a_rate_of_zero_is_a_mistake() {
    let _ = Rate::per_second(0);
}

#[tokio::test]
async fn a_refusal_has_the_format_of_its_client() {
    let limit = StreamLimitLayer::new().streams(0).streams_per_key(0);
    let service = limit.layer(Origin::default());
    for kind in ["application/grpc", "application/grpc-web+proto"] {
        let mut request = get("/");
        let headers = request.headers_mut();
        headers.insert("content-type", kind.parse().unwrap());
        let refused = send(&service, request).await;
        assert_eq!(refused.status(), 200);
        assert_eq!(header(&refused, "content-type"), kind);
        assert_eq!(header(&refused, "grpc-status"), "8");
        let number = |name| header(&refused, name).parse::<u64>().unwrap();
        let millis = number("grpc-retry-pushback-ms");
        assert!((2_000..=4_000).contains(&millis), "{millis}");
        assert_eq!(number("retry-after"), millis.div_ceil(1_000));
        assert_eq!(text(refused).await, "");
    }
    let mut request = get("/");
    *request.method_mut() = Method::HEAD;
    let refused = send(&service, request).await;
    assert_eq!(refused.status(), 429);
    assert!(header(&refused, "content-length").parse::<u64>().unwrap() > 0);
    assert_eq!(text(refused).await, "");
}

#[tokio::test]
async fn an_upgrade_keeps_its_permit_as_long_as_the_handler_does() {
    let limits = [(); 2].map(|()| StreamLimitLayer::new().streams(1));
    let handler = tower::service_fn(async |request: Request<()>| {
        let mut response = Response::new(MockBody::new([]));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let permit = StreamPermit::of(request.extensions()).expect("admitted");
        response.extensions_mut().insert(permit);
        // A clone of the extensions, which may live for any time, holds nothing.
        let exchange = Exchange::get(request.extensions()).cloned();
        response
            .extensions_mut()
            .insert((exchange, request.extensions().clone()));
        Ok::<_, Infallible>(response)
    });
    let service = limits[0].layer(limits[1].layer(handler));
    let (mut head, body) = send(&service, get("/")).await.into_parts();
    let permit = head.extensions.remove::<StreamPermit>().unwrap();
    assert_eq!(permit.limits(), 2);
    drop(body);
    assert_eq!(limits.each_ref().map(|limit| limit.stats().in_use), [1, 1]);
    assert_eq!(send(&service, get("/")).await.status(), 503);
    drop(permit);
    assert_eq!(limits.each_ref().map(|limit| limit.stats().in_use), [0, 0]);
    assert!(StreamPermit::of(&head.extensions).is_none());
}

#[tokio::test]
async fn two_layers_of_one_limit_count_a_request_once_and_each_attempt_of_a_retry_by_itself() {
    let limit = StreamLimitLayer::new().streams(1);
    let other = StreamLimitLayer::new().streams(1);
    let service = limit.layer(other.layer(limit.layer(Origin::default())));
    let response = send(&service, get("/")).await;
    assert_eq!(response.status(), 200);
    assert_eq!((limit.stats().in_use, other.stats().in_use), (1, 1));
    drop(response);

    // Two attempts with one request, as `tower::retry` clones it.
    let outside = StreamLimitLayer::new();
    let inner = limit.layer(Origin::default());
    let retry = tower::service_fn(move |request: Request<()>| {
        let inner = inner.clone();
        async move {
            let first = send(&inner, request.clone()).await;
            assert_eq!(send(&inner, request.clone()).await.status(), 503);
            drop(first);
            Ok::<_, Infallible>(send(&inner, request).await)
        }
    });
    let response = send(&outside.layer(retry), get("/")).await;
    assert_eq!(response.status(), 200);
    assert_eq!((limit.stats().in_use, outside.stats().in_use), (1, 1));
    drop(response);
    assert_eq!((limit.stats().in_use, outside.stats().in_use), (0, 0));
}

#[tokio::test]
async fn a_limit_that_is_lowered_ends_no_stream_and_admits_none_until_enough_have_ended() {
    let limit = StreamLimitLayer::new().streams(3);
    let service = limit.layer(Origin::default());
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(send(&service, get("/")).await);
    }
    limit.set_streams(1);
    for still in [3, 2, 1] {
        assert_eq!(limit.stats().in_use, still);
        assert_eq!(send(&service, get("/")).await.status(), 503);
        assert_eq!(text(open.pop().unwrap()).await, "ab");
    }
    assert_eq!(send(&service, get("/")).await.status(), 200);
}

#[tokio::test]
async fn the_routes_of_a_router_share_a_layer_and_a_layer_of_one_route_is_its_own() {
    use axum::{Router, body::Body, routing::get as route};
    let (all, one) = (
        StreamLimitLayer::new().streams(2),
        StreamLimitLayer::new().streams(1),
    );
    let app: Router = Router::new()
        .route("/a", route(|| async { "a" }))
        .route("/b", route(|| async { "b" }).layer(one.clone()))
        .layer(all.clone())
        .route("/free", route(|| async { "free" }));
    let ask = |path| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        app.clone().oneshot(request)
    };
    let mut open = Vec::new();
    for (path, status, in_use) in [
        ("/b", 200, (1, 1)),
        ("/b", 503, (1, 1)),
        ("/a", 200, (2, 1)),
        ("/a", 503, (2, 1)),
        ("/free", 200, (2, 1)),
    ] {
        let response = ask(path).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        match status {
            200 => open.push(response),
            _ => drop(response),
        }
        assert_eq!((all.stats().in_use, one.stats().in_use), in_use, "{path}");
    }
    drop(open);
    assert_eq!((all.stats().in_use, one.stats().in_use), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_used_its_rate_is_not_forgotten_before_that_is_replenished() {
    let limit = StreamLimitLayer::new()
        .rate_per_key(Rate::per_minute(1))
        .remember(2, Duration::from_secs(1));
    let service = limit.layer(Origin::default());
    assert_eq!(send(&service, from("10.0.0.1:1", "/")).await.status(), 200);
    for n in 2..6 {
        tokio::time::advance(Duration::from_secs(5)).await;
        send(&service, from(&format!("10.0.0.{n}:1"), "/")).await;
    }
    assert_eq!(send(&service, from("10.0.0.1:1", "/")).await.status(), 429);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(send(&service, from("10.0.0.9:1", "/")).await.status(), 200);
    assert_eq!(limit.stats().keys, 1);
}
