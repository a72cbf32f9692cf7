//! The admin listener: probes and status.

use axum::{
    Router, extract,
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use crate::{State, problem::Problem, reply};

/// The routes of the admin listener.
pub fn admin(state: &State) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(state.clone())
}

/// 200 while the process can answer at all, also while it stops: a restart would help nobody.
async fn livez() -> Response {
    reply::json(StatusCode::OK, &json!({"status": "live"}))
}

/// 200 while new requests are welcome, 503 once the server is stopping.
async fn readyz(extract::State(state): extract::State<State>) -> Response {
    if state.is_stopping() {
        reply::json(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({"status": "stopping"}),
        )
    } else {
        reply::json(StatusCode::OK, &json!({"status": "ready"}))
    }
}

/// The state of the server.
async fn status(extract::State(state): extract::State<State>) -> Response {
    let name = if state.is_stopping() {
        "stopping"
    } else {
        "active"
    };
    reply::json(StatusCode::OK, &json!({"state": name}))
}

/// Everything that is measured, as Prometheus text.
async fn metrics(extract::State(state): extract::State<State>) -> Response {
    match state.metrics.text() {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}

/// 404 for a path that is no route.
pub(crate) async fn not_found(uri: Uri) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("no route `{}`; see demo-server --help", uri.path()),
    )
}

/// 405 for a route that has no such method; axum adds `Allow`.
pub(crate) async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this route does not answer this method",
    )
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::Args;

    async fn ask(state: &State, path: &str) -> (u16, serde_json::Value) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = admin(state).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_server_that_stops_is_live_but_not_ready() {
        let state = State::new(Args::default()).unwrap();
        assert_eq!(ask(&state, "/livez").await.0, 200);
        assert_eq!(ask(&state, "/readyz").await.0, 200);
        assert_eq!(ask(&state, "/status").await.1["state"], "active");
        state.stop();
        assert_eq!(ask(&state, "/livez").await.0, 200);
        assert_eq!(ask(&state, "/readyz").await.0, 503);
        assert_eq!(ask(&state, "/status").await.1["state"], "stopping");
    }

    #[tokio::test]
    async fn the_listeners_do_not_share_routes() {
        let state = State::new(Args::default()).unwrap();
        assert_eq!(ask(&state, "/events").await.0, 404);
        let answer = crate::testing::get("/status").await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }

    #[tokio::test]
    async fn what_the_public_listener_did_is_in_the_metrics() {
        let state = State::new(Args::default()).unwrap();
        let request = Request::get("/events?count=3&interval_ms=0")
            .body(Body::empty())
            .unwrap();
        let response = crate::app(&state).oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();

        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        let response = admin(&state).oneshot(request).await.unwrap();
        assert_eq!(
            response.headers()["content-type"],
            "text/plain; version=0.0.4"
        );
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        for line in [
            r#"http_server_response_stream_count_total{http_route="/events",outcome="complete"} 1"#,
            r#"http_server_response_stream_active{http_route="/events"} 0"#,
            r#"http_server_response_chunk_gap_seconds_count{chunk_index_bucket="2",http_route="/events"} 1"#,
            r#"http_server_response_chunk_producer_wait_seconds_count{http_route="/events"} 3"#,
            r#"target_info{service_name="demo-server","#,
        ] {
            assert!(text.contains(line), "no `{line}` in\n{text}");
        }
    }

    #[tokio::test]
    async fn a_wrong_method_is_a_problem_with_allow() {
        let request = Request::post("/events").body(Body::empty()).unwrap();
        let answer = crate::testing::send(Args::default(), request).await;
        assert_eq!(answer.status, 405);
        assert_eq!(answer.header("allow"), "GET,HEAD");
        assert_eq!(answer.json()["status"], 405);

        let state = State::new(Args::default()).unwrap();
        let request = Request::post("/livez").body(Body::empty()).unwrap();
        let response = admin(&state).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 405);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
    }
}
