//! A response with a last record, and the end that its layers report.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_stream_core::{
    Cause, Dialect, Exchange, FaultKind, StreamEnd,
    mock::{self, MockBody, Step},
    wrapper::{Begin, Hook, Stage, Wrapped},
};

#[derive(Clone, Debug, Default)]
struct Ends(Arc<parking_lot::Mutex<Vec<StreamEnd>>>);

impl Stage for Ends {
    fn on_end(&mut self, end: &StreamEnd) {
        self.0.lock().push(end.clone());
    }
}

impl Hook for Ends {
    type Stage = Self;
    fn on_request<B>(&self, _: &mut Request<B>, _: &Exchange) -> Begin<Self> {
        Begin::Follow(self.clone())
    }
}

impl<S> Layer<S> for Ends {
    type Service = Wrapped<S, Self>;
    fn layer(&self, inner: S) -> Self::Service {
        Wrapped::new(inner, self.clone())
    }
}

const TOKEN: &str = "data: {\"choices\":[]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// The error type of the end (`None` if it is complete), and the bytes that the client received.
struct Seen {
    error_type: Option<&'static str>,
    bytes: Bytes,
    failed: bool,
    exchange: Exchange,
}

fn events(steps: impl IntoIterator<Item = Step>) -> Response<MockBody> {
    let mut response = Response::new(MockBody::new(steps));
    let content_type = "text/event-stream".parse().unwrap();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response.extensions_mut().insert(Dialect::OPENAI_CHAT);
    response
}

/// Two wrappers, of which the inner one looks for the last record.
async fn play(method: &str, response: Response<MockBody>) -> Seen {
    let (outer, inner) = (Ends::default(), Ends::default());
    let mut response = Some(response);
    let handler = tower::service_fn(move |_: Request<()>| {
        std::future::ready(Ok::<_, Infallible>(response.take().unwrap()))
    });
    let service = outer.layer(inner.layer(handler));
    let exchange = Exchange::new();
    let mut request = Request::builder().method(method).body(()).unwrap();
    request.extensions_mut().insert(exchange.clone());
    let mut body = service.oneshot(request).await.unwrap().into_body();
    let (mut bytes, mut failed) = (Vec::new(), false);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend(frame.into_data().unwrap_or_default()),
            Err(_) => failed = true,
        }
    }
    drop(body);
    let (outer, inner) = (outer.0.lock(), inner.0.lock());
    assert_eq!(*outer, *inner, "both report the same");
    Seen {
        error_type: outer[0].error_type(),
        bytes: bytes.into(),
        failed,
        exchange,
    }
}

#[tokio::test]
async fn an_end_without_the_last_record_is_incomplete() {
    for tells_end in [false, true] {
        let mut response = events([mock::data(TOKEN)]);
        if tells_end {
            response = response.map(MockBody::tells_end);
        }
        let seen = play("POST", response).await;
        assert_eq!(seen.error_type, Some("incomplete"));
        assert!(seen.failed);
        assert_eq!(seen.bytes, TOKEN);
    }
}

#[tokio::test]
async fn trailers_and_a_declared_length_end_a_body_too() {
    let seen = play("POST", events([mock::data(TOKEN), mock::trailer("a", "b")])).await;
    assert_eq!(seen.error_type, Some("incomplete"));
    let response = events([mock::data(TOKEN), mock::data(TOKEN)]).map(MockBody::with_true_size);
    let seen = play("POST", response).await;
    assert_eq!(seen.error_type, Some("incomplete"));
    assert!(seen.failed, "not all that was declared is given");
    assert_eq!(seen.bytes, TOKEN);
    let response = events([mock::data(TOKEN), mock::data(DONE)]).map(MockBody::with_true_size);
    assert_eq!(play("POST", response).await.error_type, None);
}

#[tokio::test]
async fn what_happens_behind_the_last_record_changes_nothing() {
    let whole = || [mock::data(TOKEN), mock::data(DONE)];
    let ways: [(&str, Option<Step>); 4] = [
        ("end", None),
        ("error", Some(mock::error("late"))),
        ("twice", Some(mock::data(DONE))),
        ("comment", Some(mock::data(": x\n\n"))),
    ];
    for (name, way) in ways {
        let seen = play("POST", events(whole().into_iter().chain(way))).await;
        assert_eq!(seen.error_type, None, "{name}");
        assert!(seen.exchange.is_terminal() && seen.exchange.cause().is_none());
    }
}

#[tokio::test]
async fn a_client_that_leaves_behind_the_last_record_has_all() {
    for (last, error_type) in [(DONE, None), (TOKEN, Some("dropped"))] {
        let ends = Ends::default();
        let response = events([mock::data(last), mock::hang()]);
        let mut response = Some(response);
        let handler = tower::service_fn(move |_: Request<()>| {
            std::future::ready(Ok::<_, Infallible>(response.take().unwrap()))
        });
        let request = Request::new(());
        let mut body = ends
            .layer(handler)
            .oneshot(request)
            .await
            .unwrap()
            .into_body();
        assert!(body.frame().await.unwrap().is_ok());
        drop(body);
        assert_eq!(ends.0.lock()[0].error_type(), error_type);
    }
}

#[tokio::test]
async fn the_wrong_bytes_are_wrong_however_they_end() {
    let mismatch = Cause::new(FaultKind::DigestMismatch, "md5");
    let steps = [mock::data(DONE), mock::error(mismatch)];
    let seen = play("POST", events(steps)).await;
    assert_eq!(seen.error_type, Some("digest_mismatch"));
}

#[tokio::test]
async fn only_streams_of_the_dialect_are_followed() {
    type Change = fn(&mut Response<MockBody>);
    let cases: [(&str, Change); 4] = [
        ("GET", |response| {
            response.extensions_mut().remove::<Dialect>();
        }),
        ("POST", |response| {
            let json = "application/json".parse().unwrap();
            response.headers_mut().insert(header::CONTENT_TYPE, json);
        }),
        ("POST", |response| {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
        }),
        ("POST", |response| {
            let gzip = "gzip".parse().unwrap();
            response
                .headers_mut()
                .insert(header::CONTENT_ENCODING, gzip);
        }),
    ];
    for (method, change) in cases {
        let mut response = events([mock::data(TOKEN)]);
        change(&mut response);
        assert_eq!(play(method, response).await.error_type, None);
    }
    let response = events([mock::data(TOKEN)]);
    assert_eq!(
        play("HEAD", response).await.error_type,
        None,
        "polled as h2 does"
    );
}

#[tokio::test]
async fn a_header_names_a_dialect() {
    let mut response = events([mock::data(TOKEN)]);
    response.extensions_mut().remove::<Dialect>();
    let name = "x-vercel-ai-ui-message-stream";
    response.headers_mut().insert(name, "v1".parse().unwrap());
    let seen = play("POST", response).await;
    assert_eq!(seen.error_type, Some("incomplete"));
    assert_eq!(seen.exchange.dialect().unwrap().name(), "vercel-ui");
    assert!(Dialect::of_headers(&HeaderMap::new()).is_none());
}

#[test]
fn what_is_named_last_holds() {
    let exchange = Exchange::new();
    assert!(exchange.dialect().is_none());
    for dialect in [Dialect::OPENAI_CHAT, Dialect::GEMINI, Dialect::MCP] {
        exchange.set_dialect(dialect);
        assert_eq!(exchange.dialect().unwrap().name(), dialect.name());
    }
    assert!(exchange.record(Cause::new(FaultKind::Other, "x")));
}

#[test]
fn an_attempt_has_the_dialects_of_the_layers_outside() {
    let mut request = http::Extensions::new();
    Exchange::of(&mut request).set_dialect(Dialect::OPENAI_CHAT);
    let attempt = || Exchange::of(&mut request.clone());
    attempt().set_dialect(Dialect::GEMINI);
    assert_eq!(attempt().dialect().unwrap().name(), "openai-chat");
}
