//! [`DialectLayer`].

use http::header;
use tower_stream_core::{Cause, Dialect, FaultKind, mock};

use super::*;
use crate::DialectLayer;

async fn ask(method: &str, response: Response<MockBody>) -> Seen {
    let mut request = get();
    *request.method_mut() = method.parse().unwrap();
    let layer = DialectLayer::new(Dialect::OPENAI_CHAT);
    let service = layer.layer(once(response));
    read(service.oneshot(request).await.unwrap()).await
}

fn status(status: u16, content_type: Option<&str>, text: &'static str) -> Response<MockBody> {
    let body = match text {
        "" => MockBody::new([]),
        text => MockBody::new([mock::pending(), mock::data(text)]),
    };
    let mut response = Response::new(body.with_true_size());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let headers = response.headers_mut();
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
    }
    headers.insert(header::WWW_AUTHENTICATE, "Bearer".parse().unwrap());
    headers.insert(header::ETAG, "\"of the text\"".parse().unwrap());
    response
}

#[tokio::test]
async fn error_responses_get_the_form_of_the_dialect() {
    let problem = r#"{"title":"Service Unavailable","detail":"going away"}"#;
    for (code, content_type, text, message, kind) in [
        (404, None, "", "Not Found", "invalid_request_error"),
        (
            401,
            Some("text/plain"),
            " ",
            "Unauthorized",
            "authentication_error",
        ),
        (
            400,
            Some("text/plain; charset=utf-8"),
            "no model",
            "no model",
            "invalid_request_error",
        ),
        (
            503,
            Some("application/problem+json"),
            problem,
            "going away",
            "server_error",
        ),
        (
            500,
            Some("application/problem+json"),
            "{",
            "Internal Server Error",
            "server_error",
        ),
    ] {
        let seen = ask("POST", status(code, content_type, text)).await;
        assert_eq!(
            (seen.status.as_u16(), seen.header("content-type")),
            (code, "application/json")
        );
        let error = &seen.json()["error"];
        assert_eq!(
            (&error["message"], &error["type"]),
            (&message.into(), &kind.into())
        );
        assert!(error["code"].is_null());
        assert_eq!(seen.header("www-authenticate"), "Bearer");
        assert_eq!(seen.header("etag"), "", "that of other bytes");
        assert!(seen.error.is_none());
    }
}

#[tokio::test]
async fn what_has_a_form_of_its_own_is_left_alone() {
    for (method, code, content_type, text) in [
        ("POST", 400, "application/json", "{\"error\":{}}"),
        ("POST", 404, "text/html", "<p>no"),
        ("POST", 200, "text/plain", "fine"),
        ("HEAD", 404, "text/plain", "no"),
    ] {
        let seen = ask(method, status(code, Some(content_type), text)).await;
        assert_eq!(
            (seen.text().as_str(), seen.header("content-type")),
            (text, content_type)
        );
    }
    let long = status(400, Some("text/plain"), "x")
        .map(|_| MockBody::new([mock::data("x".repeat(20_000))]).with_true_size());
    assert_eq!(ask("POST", long).await.text().len(), 20_000);
}

#[tokio::test]
async fn only_paths_under_the_prefix_speak_it() {
    for (prefix, speaks) in [("/v1/", false), ("/", true)] {
        let layer = DialectLayer::new(Dialect::OPENAI_CHAT).under(prefix);
        let service = layer.layer(once(status(404, None, "")));
        let seen = read(service.oneshot(get()).await.unwrap()).await;
        assert_eq!(seen.header("content-type") == "application/json", speaks);
    }
}

#[tokio::test]
async fn it_names_the_dialect_to_all_layers() {
    let layer = DialectLayer::new(Dialect::OLLAMA);
    let lines = answer(LINES, [mock::data("{\"done\":false}\n")]);
    let mut request = get();
    let exchange = Exchange::of(request.extensions_mut());
    let inside = layer.layer(once(lines));
    let outside = DialectLayer::new(Dialect::OPENAI_CHAT).layer(inside);
    let seen = read(outside.oneshot(request).await.unwrap()).await;
    assert!(seen.error.is_some());
    assert_eq!(
        exchange.cause().map(Cause::kind),
        Some(FaultKind::Incomplete)
    );
    assert_eq!(
        exchange.dialect().unwrap().name(),
        "ollama",
        "the inner one"
    );
}
