//! No client can choose the value of an attribute.

use axum::{Router, body::Body, routing::get};
use http::Method;
use http_body_util::BodyExt;
use tower_stream_core::mock::{data, trailer};

use super::*;
use crate::names;

async fn get_all(app: &Router, paths: &[&str]) {
    for path in paths {
        let request = Request::get(*path).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
}

fn routes(recorded: &Recorded) -> Vec<(String, u64)> {
    recorded
        .counts(names::STREAM_COUNT)
        .into_iter()
        .map(|(attributes, count)| {
            let route = attributes
                .split(' ')
                .find_map(|pair| pair.strip_prefix("http.route="));
            (route.unwrap().to_owned(), count)
        })
        .collect()
}

fn owned<const N: usize>(routes: [(&str, u64); N]) -> Vec<(String, u64)> {
    routes
        .map(|(route, count)| (route.to_owned(), count))
        .into()
}

#[tokio::test]
async fn the_route_is_the_template_and_a_path_that_is_no_route_has_one_label() {
    let recorded = Recorded::new();
    let app = Router::new()
        .route("/users/{id}", get(|| async { "a" }))
        .nest(
            "/api",
            Router::new().route("/items/{id}", get(|| async { "b" })),
        )
        .layer(recorded.layer());
    get_all(
        &app,
        &[
            "/users/1",
            "/users/2",
            "/api/items/3",
            "/nothing",
            "/api/nothing/4",
            "/../x",
        ],
    )
    .await;
    let expected = [
        ("/api/items/{id}", 1),
        ("/users/{id}", 2),
        (names::UNMATCHED, 3),
    ];
    assert_eq!(routes(&recorded), owned(expected));
}

#[tokio::test]
async fn outside_of_the_router_there_is_no_route_but_a_function_can_name_it() {
    let app = || Router::new().route("/users/{id}", get(|| async { "a" }));
    let recorded = Recorded::new();
    let outside = Router::new().fallback_service(recorded.layer().layer(app()));
    get_all(&outside, &["/users/1"]).await;
    assert_eq!(routes(&recorded), owned([(names::UNMATCHED, 1)]));

    let recorded = Recorded::new();
    let layer = recorded
        .layer()
        .route(|uri, _| uri.path().starts_with("/users/").then(|| "users".into()))
        .chunk_gap(false);
    let outside = Router::new().fallback_service(layer.layer(app()));
    get_all(&outside, &["/users/1", "/users/2", "/other"]).await;
    assert_eq!(
        routes(&recorded),
        owned([(names::UNMATCHED, 1), ("users", 2)])
    );
}

#[tokio::test]
async fn unknown_methods_are_other() {
    let recorded = Recorded::new();
    for (method, label) in [
        ("GET", "GET"),
        ("QUERY", "QUERY"),
        ("get", names::OTHER_METHOD),
        ("MADE-UP", names::OTHER_METHOD),
    ] {
        let mut request = Request::new(());
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        let response = Response::new(mock([data("a")]));
        play(&mut answer(&recorded.layer(), request, response).await)
            .await
            .unwrap();
        let labels = recorded.counts(names::STREAM_DURATION);
        let wanted = format!("http.request.method={label} ");
        assert!(
            labels.iter().any(|(labels, _)| labels.starts_with(&wanted)),
            "{labels:?}"
        );
    }
    assert_eq!(recorded.series(names::STREAM_DURATION).len(), 3);
}

#[tokio::test]
async fn a_long_stream_has_twelve_gap_series() {
    let recorded = Recorded::new();
    let steps = (0..5000).map(|_| data("x"));
    play(&mut body(&recorded.layer(), mock(steps)).await)
        .await
        .unwrap();
    let gaps = recorded.counts(names::CHUNK_GAP);
    assert_eq!(gaps.len(), 12, "{gaps:?}");
    assert_eq!(gaps.iter().map(|(_, count)| count).sum::<u64>(), 4999);
}

#[tokio::test]
async fn the_attributes_are_these_and_no_others() {
    let recorded = Recorded::new();
    let layer = recorded.layer().producer_wait(true).consumer_hold(true);
    let layer = layer.scheme("https");
    play(&mut body(&layer, mock([data("a"), data("b")])).await)
        .await
        .unwrap();
    let all = "http.request.method=GET http.response.status_code=200 http.route=_unmatched";
    let route = "http.route=_unmatched";
    let conventional = format!("{all} network.protocol.version=1.1 url.scheme=https");
    for (name, attributes) in [
        (names::TIME_TO_FIRST_CHUNK, all.to_owned()),
        (names::CHUNK_GAP, format!("chunk.index_bucket=1 {route}")),
        (names::CHUNK_PRODUCER_WAIT, route.to_owned()),
        (names::CHUNK_CONSUMER_HOLD, route.to_owned()),
        (names::STREAM_DURATION, format!("{all} outcome=complete")),
        (names::STREAM_ACTIVE, route.to_owned()),
        (names::STREAM_COUNT, format!("{route} outcome=complete")),
        (names::BODY_SIZE, conventional.clone()),
        (names::REQUEST_DURATION, conventional),
        (
            names::ACTIVE_REQUESTS,
            "http.request.method=GET url.scheme=https".to_owned(),
        ),
    ] {
        assert_eq!(recorded.only(name).0, attributes, "{name}");
    }
}

#[tokio::test]
async fn what_a_client_says_of_its_scheme_is_one_of_two() {
    let recorded = Recorded::new();
    for scheme in ["https", "gopher"] {
        let request = Request::builder().uri(format!("{scheme}://a/"));
        let response = Response::new(mock([data("a")]));
        let mut body = answer(&recorded.layer(), request.body(()).unwrap(), response).await;
        play(&mut body).await.unwrap();
    }
    let active: Vec<_> = recorded
        .series(names::ACTIVE_REQUESTS)
        .into_iter()
        .collect();
    let zero = Point { sum: 0.0, count: 0 };
    let expected = ["http", "https"]
        .map(|scheme| (format!("http.request.method=GET url.scheme={scheme}"), zero));
    assert_eq!(active, expected);
}

#[tokio::test]
async fn a_5xx_that_is_sent_whole_has_its_status_for_an_error_type_where_the_convention_says_so() {
    let recorded = Recorded::new();
    let mut response = Response::new(mock([data("a")]));
    *response.status_mut() = http::StatusCode::BAD_GATEWAY;
    let mut body = answer(&recorded.layer(), Request::new(()), response).await;
    play(&mut body).await.unwrap();
    drop(body);
    let attributes = recorded.only(names::REQUEST_DURATION).0;
    assert!(attributes.starts_with("error.type=502 "), "{attributes}");
    assert_eq!(recorded.the_end(), "http.route=_unmatched outcome=complete");
}

#[tokio::test]
async fn a_grpc_status_is_a_label_also_when_it_is_ok() {
    let recorded = Recorded::new();
    for (code, name) in [("0", "OK"), ("5", "NOT_FOUND")] {
        let mut response = Response::new(mock([data("a"), trailer("grpc-status", code)]));
        let content_type = "application/grpc".parse().unwrap();
        response.headers_mut().insert("content-type", content_type);
        let mut body = answer(&recorded.layer(), Request::new(()), response).await;
        play(&mut body).await.unwrap();
        drop(body);
        let counted = recorded.counts(names::STREAM_COUNT);
        let label = format!("rpc.response.status_code={name}");
        let labelled = counted
            .iter()
            .filter(|(attributes, _)| attributes.contains(&label));
        assert_eq!(labelled.count(), 1, "{counted:?}");
    }
}

#[tokio::test]
async fn status_and_index_bucket_are_integers() {
    use opentelemetry::Value;
    let recorded = Recorded::new();
    play(&mut body(&recorded.layer(), mock([data("a"), data("b")])).await)
        .await
        .unwrap();
    recorded.provider.force_flush().unwrap();
    let exported = recorded.exporter.get_finished_metrics().unwrap();
    let mut integers = Vec::new();
    for metric in exported
        .iter()
        .flat_map(|r| r.scope_metrics())
        .flat_map(|s| s.metrics())
    {
        if let AggregatedMetrics::F64(MetricData::Histogram(data)) = metric.data() {
            let attributes = data.data_points().flat_map(|point| point.attributes());
            integers.extend(
                attributes
                    .filter(|pair| matches!(pair.value, Value::I64(_)))
                    .map(|pair| pair.key.to_string()),
            );
        }
    }
    integers.sort_unstable();
    integers.dedup();
    assert_eq!(integers, [names::INDEX_BUCKET, names::STATUS]);
}

#[tokio::test]
async fn every_route_keeps_its_series_of_gaps() {
    let recorded = Recorded::new();
    let layer = recorded
        .layer()
        .route(|uri, _| Some(uri.path().to_owned().into()));
    let service = service_fn(|request: Request<usize>| async move {
        let chunks = (0..request.into_body()).map(|_| data("x"));
        Ok::<_, Infallible>(Response::new(MockBody::new(chunks)))
    });
    // More routes than are kept. The first and the last one fill every bucket.
    for route in 0..1_010 {
        let chunks = if (100..1_000).contains(&route) {
            3
        } else {
            2_050
        };
        let request = Request::get(format!("/r{route}")).body(chunks).unwrap();
        let response = layer.layer(service).oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let gaps = recorded.series(names::CHUNK_GAP);
    let of = |route: &str| {
        let is_of = |attributes: &&String| attributes.ends_with(&format!("http.route={route}"));
        gaps.keys().filter(is_of).count()
    };
    assert_eq!(
        (of("/r0"), of("/r79"), of("/r80"), of("/r999")),
        (12, 12, 1, 1)
    );
    assert_eq!((of("/r1000"), of(names::UNMATCHED)), (0, 12));
    assert!(gaps.len() < 2_000);
    assert!(
        !gaps
            .keys()
            .any(|attributes| attributes.contains("overflow"))
    );
}
