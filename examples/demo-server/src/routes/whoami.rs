//! `GET /whoami`: the id of the request.

use axum::{
    body::{Body, to_bytes},
    extract,
    http::{Request, StatusCode, Uri},
    response::Response,
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use tower::{BoxError, ServiceBuilder, ServiceExt};
use tower_stream_ids::{ForwardRequestIdLayer, RequestId};

use crate::{State, problem::Problem, reply};

/// The id of the request, `null` without the layer that gives one, and, with `--upstream`, the upstream's response with its own.
pub(crate) async fn whoami(
    extract::State(state): extract::State<State>,
    request: extract::Request,
) -> Result<Response, Problem> {
    let request_id = RequestId::of(request.extensions());
    let mut answer = json!({ "request_id": request_id.map(RequestId::as_str) });
    if let Some(upstream) = &state.args.upstream {
        answer["upstream"] = ask(upstream).await.map_err(|error| {
            tracing::warn!(%error, %upstream, "no answer from upstream");
            Problem::new(
                StatusCode::BAD_GATEWAY,
                "the upstream server did not answer",
            )
        })?;
    }
    let document = answer.to_string();
    Ok(reply::json_text(
        "application/json",
        StatusCode::OK,
        document,
    ))
}

/// Far larger than a response.
const MAX_ANSWER: usize = 64 * 1024;

async fn ask(upstream: &Uri) -> Result<Value, BoxError> {
    let client = ServiceBuilder::new()
        .layer(ForwardRequestIdLayer::new())
        .service(Client::builder(TokioExecutor::new()).build_http::<Body>());
    let request = Request::get(format!("{upstream}whoami")).body(Body::empty())?;
    let response = client.oneshot(request).await?;
    if response.status() != StatusCode::OK {
        return Err(format!("status {}", response.status()).into());
    }
    let document = to_bytes(Body::new(response.into_body()), MAX_ANSWER).await?;
    Ok(serde_json::from_slice(&document)?)
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};

    use crate::{
        Args,
        testing::{get, get_with, send},
    };

    #[tokio::test]
    async fn it_tells_the_id_that_was_sent_or_made() {
        let request = Request::get("/whoami").header("x-request-id", "order-17");
        let answer = send(Args::default(), request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.text(), r#"{"request_id":"order-17"}"#);
        assert_eq!(answer.header("x-request-id"), "order-17");

        let answer = get("/whoami").await;
        assert_eq!(answer.header("content-type"), "application/json");
        let id = answer.json()["request_id"].as_str().unwrap().to_owned();
        assert_eq!(id.len(), 36);
        assert_eq!(answer.header("x-request-id"), id);
    }

    #[tokio::test]
    async fn without_layers_there_is_none() {
        let args = Args {
            bare: true,
            ..Args::default()
        };
        let answer = get_with(args, "/whoami").await;
        assert_eq!(answer.text(), r#"{"request_id":null}"#);
    }

    #[tokio::test]
    async fn an_upstream_that_is_not_there_is_a_clear_error() {
        let args = Args {
            upstream: Some("http://127.0.0.1:1/".parse().unwrap()),
            ..Args::default()
        };
        let answer = get_with(args, "/whoami").await;
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("the upstream server did not answer"));
    }
}
