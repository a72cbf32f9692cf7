//! `PUT /upload`: accepts any body and reports its size and digest.

use axum::{body::Body, http::StatusCode, response::Response, routing::MethodRouter};
use http_body_util::BodyExt;
use serde_json::json;
use tower_stream_digest::{Digest, DigestValue, Md5, VerifyRequestDigestLayer};

use crate::{State, problem::Problem, reply};

/// Checks the digest that the client declared, by any known algorithm.
pub(crate) fn checked(route: MethodRouter<State>) -> MethodRouter<State> {
    route.layer(VerifyRequestDigestLayer::all())
}

/// Responds with `{"size": .., "md5": ".."}`. Stores nothing, so nothing is committed before the end of the body.
///
/// If the body does not match its declared digest, it ends with an error here, and the layer responds with a 400.
pub(crate) async fn upload(mut body: Body) -> Result<Response, Problem> {
    let (mut size, mut md5) = (0, Md5::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            tracing::warn!(%error, size, "upload broken off");
            Problem::new(StatusCode::BAD_REQUEST, "the upload did not arrive whole")
        })?;
        if let Some(data) = frame.data_ref() {
            size += data.len() as u64;
            md5.update(data);
        }
    }
    let answer = json!({ "size": size, "md5": DigestValue::finish(md5).hex() });
    Ok(reply::json(StatusCode::OK, &answer))
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};

    use crate::{
        Args,
        testing::{Answer, send},
    };

    const HELLO: &str = "5d41402abc4b2a76b9719d911017c592";

    async fn put(body: &'static str, headers: &[(&str, &str)]) -> Answer {
        let head = Request::put("/upload");
        let head = headers
            .iter()
            .fold(head, |head, (name, value)| head.header(*name, *value));
        send(Args::default(), head.body(Body::from(body)).unwrap()).await
    }

    #[tokio::test]
    async fn says_what_arrived() {
        let sha = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
        for headers in [
            &[][..],
            &[("x-content-md5", HELLO)],
            &[("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")],
            &[("content-digest", sha)],
        ] {
            let answer = put("hello", headers).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(
                (&answer.json()["size"], &answer.json()["md5"]),
                (&5.into(), &HELLO.into())
            );
        }
    }

    #[tokio::test]
    async fn refuses_what_was_not_promised() {
        let sha = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:";
        for (header, value, title) in [
            ("x-content-md5", HELLO, "BadDigest"),
            ("content-digest", sha, "BadDigest"),
            ("content-md5", "not base64", "InvalidDigest"),
        ] {
            let answer = put("hell0", &[(header, value)]).await;
            assert_eq!(
                (answer.status, &answer.json()["title"]),
                (400, &title.into()),
                "{header}"
            );
            assert_eq!(answer.header("content-type"), "application/problem+json");
        }
    }
}
