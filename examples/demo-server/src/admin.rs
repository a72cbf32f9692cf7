//! The admin listener: probes and status.

use crate::{State, compression, figures, forgery, problem::Problem, reply};
use axum::{
    Router, extract,
    http::{StatusCode, Uri},
    middleware::{from_fn, from_fn_with_state},
    response::Response,
    routing::{get, get_service, post},
};

/// The routes of the admin listener.
pub fn admin(state: &State) -> Router {
    Router::new()
        .route("/livez", get_service(state.drain.liveness()))
        .route("/readyz", get_service(state.drain.readiness()))
        .route("/status", get(status))
        .route("/drain", post(drain))
        .route(
            "/compression",
            get(compression::show).post(compression::switch),
        )
        .route("/metrics", get_service(state.prometheus.clone()))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(state.clone())
        .layer(from_fn(forgery::refuse_foreign))
        .layer(from_fn_with_state(state.clone(), forgery::refuse_rebound))
}

/// The state of the server, and counters of what it served.
async fn status(extract::State(state): extract::State<State>) -> Response {
    reply::json(StatusCode::OK, &figures::of_drain(&state))
}

/// Starts the drain, as SIGTERM does. Further requests have no effect.
pub(crate) async fn drain(extract::State(state): extract::State<State>) -> Response {
    state.drain.start();
    reply::json(StatusCode::ACCEPTED, &figures::of_drain(&state))
}

/// 404 for an unknown path.
pub(crate) async fn not_found(uri: Uri) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("no route `{}`; see demo-server --help", uri.path()),
    )
}

/// 405 for a method that the route does not support; axum adds `Allow`.
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
    use serde_json::json;
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
        assert_eq!(ask(&state, "/status").await.1["deadline_ms"], json!(null));
        for _ in 0..2 {
            let request = Request::post("/drain")
                .header("host", "localhost")
                .body(Body::empty())
                .unwrap();
            let response = admin(&state).oneshot(request).await.unwrap();
            assert_eq!(response.status(), 202);
        }
        assert_eq!(ask(&state, "/livez").await.0, 200);
        assert_eq!(ask(&state, "/readyz").await.0, 503);
        let status = ask(&state, "/status").await.1;
        assert_eq!(status["state"], "advertise");
        assert!(status["deadline_ms"].as_u64() > Some(0), "{status}");
    }

    #[tokio::test]
    async fn compression_is_switched_while_it_runs() {
        let state = State::new(Args::default()).unwrap();
        let coding = async || {
            let request = Request::get("/events?count=1").header("accept-encoding", "gzip");
            let request = request.body(Body::empty()).unwrap();
            let response = crate::app(&state).oneshot(request).await.unwrap();
            response.headers().contains_key("content-encoding")
        };
        assert_eq!(ask(&state, "/compression").await.1["mode"], "on");
        for (mode, is_on) in [("off", false), ("adaptive", true), ("on", true)] {
            let request = Request::post(format!("/compression?mode={mode}"));
            let request = request.header("host", "localhost");
            let request = request.body(Body::empty()).unwrap();
            let response = admin(&state).oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200);
            let shown = ask(&state, "/compression").await.1;
            assert_eq!(shown["mode"], mode);
            let codings = shown["codings"].as_array().unwrap().len();
            assert_eq!(codings, if is_on { 3 } else { 0 }, "{shown}");
            assert_eq!(coding().await, is_on, "{mode}");
        }
        for bad in ["", "?mode=", "?mode=gzip", "?mode=on&level=3"] {
            let request = Request::post(format!("/compression{bad}")).header("host", "localhost");
            let request = request.body(Body::empty()).unwrap();
            let response = admin(&state).oneshot(request).await.unwrap();
            assert_eq!(response.status(), 400, "{bad}");
        }
        assert_eq!(ask(&state, "/compression").await.1["mode"], "on");
        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        let metrics = admin(&state).oneshot(request).await.unwrap();
        let metrics = metrics.into_body().collect().await.unwrap().to_bytes();
        let metrics = String::from_utf8(metrics.to_vec()).unwrap();
        let value = |name: &str, label: &str| {
            let line = |line: &&str| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
            };
            let line = metrics
                .lines()
                .find(line)
                .unwrap_or_else(|| panic!("{name} {label}"));
            line.rsplit(' ').next().unwrap().to_owned()
        };
        let name = |name: &str| format!("http_server_compression_{name}");
        assert_eq!(
            value(&name("responses_total"), "compression_coding=\"gzip\""),
            "2"
        );
        assert_eq!(
            value(&name("responses_total"), "compression_coding=\"br\""),
            "0"
        );
        for name in ["active", "memory_bytes", "over_memory_total"].map(name) {
            assert_eq!(value(&name, ""), "0", "{name}");
        }
        // The digest polls ahead, although nobody has read these bodies.
        for side in ["before", "after"] {
            let side = format!("compression_side=\"{side}\"");
            assert_ne!(value(&name("size_bytes_total"), &side), "0", "{side}");
        }
    }

    #[tokio::test]
    async fn the_listeners_do_not_share_routes() {
        let state = State::new(Args::default()).unwrap();
        assert_eq!(ask(&state, "/events").await.0, 404);
        let answer = crate::testing::get("/status").await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }

    /// Sends a request to the public listener and reads the response to its end.
    async fn serve(state: &State, request: axum::http::request::Builder) {
        let request = request.body(Body::empty()).unwrap();
        let response = crate::app(state).oneshot(request).await.unwrap();
        let _ = response.into_body().collect().await;
    }

    async fn assert_scraped(state: &State, lines: impl IntoIterator<Item = impl AsRef<str>>) {
        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        let response = admin(state).oneshot(request).await.unwrap();
        assert_eq!(
            response.headers()["content-type"],
            "text/plain; version=0.0.4"
        );
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        for line in lines {
            let line = line.as_ref();
            assert!(text.contains(line), "no `{line}` in\n{text}");
        }
    }

    #[tokio::test]
    async fn digests_are_counted_where_they_are_announced() {
        let state = State::new(Args::default()).unwrap();
        serve(&state, Request::get("/whoami")).await;
        let long = Request::get("/bytes?size=100000&chunk=1000&length=0");
        serve(&state, long.header("te", "trailers")).await;
        serve(&state, Request::get("/events?count=1")).await;
        let lines = [("header", 1), ("trailer", 1), ("unannounced", 0)].map(|(placement, count)| {
            format!(
                r#"http_server_response_digest_announced_total{{digest_placement="{placement}"}} {count}"#
            )
        });
        assert_scraped(&state, lines).await;
    }

    #[tokio::test]
    async fn a_promise_kept_and_one_broken_are_counted() {
        let state = State::new(Args::default()).unwrap();
        serve(&state, Request::get("/promise?size=1000&corrupt=0")).await;
        serve(&state, Request::get("/promise?size=1000&corrupt=1")).await;
        let lines = [("verified", 1), ("mismatch", 1), ("aborted", 0)].map(|(verdict, count)| {
            format!(
                r#"http_server_response_digest_count_total{{digest_outcome="{verdict}"}} {count}"#
            )
        });
        assert_scraped(&state, lines).await;
    }

    #[tokio::test]
    async fn what_the_public_listener_did_is_in_the_metrics() {
        // The metrics count the frames that are sent.
        let state = State::new(Args {
            coalesce: 0,
            ..Args::default()
        });
        let state = state.unwrap();
        serve(&state, Request::get("/events?count=3&interval_ms=0")).await;
        let lines = [
            r#"http_server_response_stream_count_total{http_route="/events",outcome="complete"} 1"#,
            r#"http_server_response_stream_active{http_route="/events"} 0"#,
            r#"http_server_response_chunk_gap_seconds_count{chunk_index_bucket="2",http_route="/events"} 1"#,
            r#"http_server_response_chunk_producer_wait_seconds_count{http_route="/events"} 3"#,
            r#"state="active"} 1"#,
            r#"target_info{service_name="demo-server","#,
        ];
        assert_scraped(&state, lines).await;
    }

    #[tokio::test]
    async fn every_handle_shows_what_it_counts_on_the_same_meter() {
        let state = State::new(Args::default()).unwrap();
        serve(
            &state,
            Request::get("/whoami").header("x-request-id", "not/an,id"),
        )
        .await;
        let states = |now| {
            ["active", "advertise", "close", "dead"].map(|state| {
                let value = u8::from(state == now);
                format!(r#"http_server_drain_state{{drain_state="{state}"}} {value}"#)
            })
        };
        assert_scraped(&state, states("active")).await;
        state.drain.start();
        assert_scraped(&state, states("advertise")).await;
        let lines = [
            "http_server_request_id_replaced_total 1",
            "http_server_drain_in_flight 0",
            "http_server_drain_refused_total 0",
        ];
        assert_scraped(&state, lines).await;
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
