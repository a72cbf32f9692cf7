//! Sends single requests through the public router, for the tests of the routes.

use axum::{body::Body, http::Request};
use bytes::Bytes;
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::{Args, State, app};

/// A response whose body is complete.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: axum::http::HeaderMap,
    /// The data frames of the body.
    pub(crate) frames: Vec<Bytes>,
    body: String,
}

impl Answer {
    /// The header's value, or `""`.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        &self.body
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Asserts a 400 problem about the query parameter `name`.
    pub(crate) fn assert_names(&self, name: &str) {
        assert_eq!(self.status, 400, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["parameter"], name);
        assert_eq!(problem["status"], 400);
        assert!(problem["detail"].as_str().unwrap().contains(name));
    }
}

/// `GET path` with default flags.
pub(crate) async fn get(path: &str) -> Answer {
    get_with(Args::default(), path).await
}

/// `GET path` with other flags.
pub(crate) async fn get_with(args: Args, path: &str) -> Answer {
    send(args, Request::get(path).body(Body::empty()).unwrap()).await
}

/// Any request.
pub(crate) async fn send(args: Args, request: Request<Body>) -> Answer {
    // The tests compare the frames of the handlers.
    let state = State::new(Args {
        coalesce: 0,
        ..args
    });
    let state = state.unwrap();
    let response = app(&state).oneshot(request).await.unwrap();
    let (head, mut body) = response.into_parts();
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(frame.unwrap().into_data().unwrap());
    }
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(&frames.concat()).into_owned(),
        frames,
    }
}
