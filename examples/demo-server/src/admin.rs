//! The admin listener: probes and status.

use axum::{
    Router, extract,
    http::{StatusCode, Uri},
    response::Response,
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
