//! Streams that are found by a key.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, State},
    response::IntoResponse,
    routing::{get, post},
};
use futures_util::poll;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use tokio::{pin, sync::Semaphore, task::yield_now};
use tower_stream_core::FaultKind;

use super::{
    lost::Faulty,
    support::{Client, Events, Feed, SSE, request, resume, send, status_of, with_cursor},
};
use crate::{Memory, NewStream, Resume, StreamId, StreamKey, StreamLog, head::Head};

/// A chat: its handler waits for a permit before it has a head.
#[derive(Clone)]
struct Chat {
    app: Router,
    feed: Feed,
    heads: Arc<Semaphore>,
}

impl Chat {
    fn new(resume: &Resume) -> Self {
        let feed = Feed::default();
        let heads = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let handler = {
            let (feed, heads) = (feed.clone(), Arc::clone(&heads));
            move |headers: HeaderMap, key: Option<Extension<StreamKey>>| async move {
                let body = feed.response_body();
                heads.acquire().await.unwrap().forget();
                let key = match headers.get("x-chat") {
                    Some(chat) => Some(Extension(StreamKey::new(chat.as_bytes().to_vec()))),
                    None => key,
                };
                let content_type = headers.get("x-type").cloned();
                let content_type = content_type.unwrap_or(HeaderValue::from_static(SSE));
                (
                    key.into_iter().collect::<Keys>(),
                    [("content-type", content_type)],
                    body,
                )
            }
        };
        let running = |State(resume): State<Resume>,
                       Path(id): Path<String>,
                       request: axum::extract::Request| async move {
            let (request, _) = request.into_parts();
            resume.key(&request, id).await.into_response()
        };
        let handler = post(handler.clone()).get(handler);
        let app = Router::new()
            .route("/chat", handler.clone())
            .route("/other", handler)
            .layer(resume.layer())
            .route("/chat/{id}/stream", get(running))
            .nest_service("/streams", resume.routes())
            .with_state(resume.clone());
        Self { app, feed, heads }
    }

    /// From now on no handler has a head before `allow`.
    fn hold(&self) {
        self.heads.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn allow(&self) {
        self.heads.add_permits(1);
    }

    async fn open(&self, request: Request<Body>) -> Client {
        Client::open(&self.app, request).await
    }

    async fn status(&self, request: Request<Body>) -> StatusCode {
        status_of(&self.app, request).await
    }
}

/// The keys of a response: one or none.
struct Keys(Option<Extension<StreamKey>>);

impl FromIterator<Extension<StreamKey>> for Keys {
    fn from_iter<T: IntoIterator<Item = Extension<StreamKey>>>(keys: T) -> Self {
        Self(keys.into_iter().next())
    }
}

impl axum::response::IntoResponseParts for Keys {
    type Error = std::convert::Infallible;

    fn into_response_parts(
        self,
        response: axum::response::ResponseParts,
    ) -> Result<axum::response::ResponseParts, Self::Error> {
        self.0.into_response_parts(response)
    }
}

fn posted(path: &str, fields: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = request(path);
    *request.method_mut() = http::Method::POST;
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

/// A POST with this `Idempotency-Key`.
fn idempotent(key: &str) -> Request<Body> {
    posted("/chat", &[("idempotency-key", key)])
}

fn of_owner(mut request: Request<Body>, owner: &str) -> Request<Body> {
    let owner = owner.parse().unwrap();
    request.headers_mut().insert("x-user", owner);
    request
}

fn running(chat: &str) -> Request<Body> {
    request(&format!("/chat/{chat}/stream"))
}

async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

const NONE: StatusCode = StatusCode::NO_CONTENT;

#[tokio::test(start_paused = true)]
async fn a_key_finds_a_stream_while_it_runs() {
    let chat = Chat::new(&resume(Memory::new()));
    assert_eq!(chat.status(running("7")).await, NONE);
    let mut first = chat.open(posted("/chat", &[("x-chat", "7")])).await;
    chat.feed.send("data: 1\n\n");
    first.until("data: 1").await;
    let mut second = chat.open(running("7")).await;
    second.until("data: 1").await;
    assert_eq!(second.id(), first.id());
    chat.feed.send("data: 2\n\n");
    second.until("data: 2").await;
    let mut rest = chat
        .open(with_cursor("/chat/7/stream", &first.cursor()))
        .await;
    for (request, expected) in [
        (running("8"), NONE),
        (of_owner(running("7"), "mallory"), NONE),
        (with_cursor("/chat/7/stream", "2"), StatusCode::BAD_REQUEST),
        (
            of_owner(with_cursor("/chat/7/stream", &first.cursor()), "mallory"),
            StatusCode::NOT_FOUND,
        ),
    ] {
        let asked = format!("{request:?}");
        assert_eq!(chat.status(request).await, expected, "{asked}");
    }
    chat.feed.end();
    second.rest().await;
    assert_eq!(second.text, format!("{}{}", first.text, rest.rest().await));
    assert_eq!(Events::of(&second.text).data, ["1", "2"]);
    // Its end is in the log, or will be.
    assert_eq!(chat.status(running("7")).await, NONE);
    settle().await;
    assert_eq!(chat.status(running("7")).await, NONE);
    // A cursor names its stream, and that has an end which this client has not seen.
    let mut late = chat
        .open(with_cursor("/chat/7/stream", &first.cursor()))
        .await;
    assert_eq!(Events::of(late.rest().await).data, ["2"]);
    let end = with_cursor("/chat/7/stream", &second.cursor());
    assert_eq!(chat.status(end).await, NONE);
    assert_eq!(chat.feed.called(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_of_the_stream_that_began_last() {
    let resume = resume(Memory::new());
    let chat = Chat::new(&resume);
    let first = chat.open(posted("/chat", &[("x-chat", "7")])).await;
    let second = chat.open(posted("/chat", &[("x-chat", "7")])).await;
    assert_ne!(first.id(), second.id());
    assert_eq!(chat.open(running("7")).await.id(), second.id());
    // A handler that joins gets the stream that runs, and its own body is dropped.
    let mut joins = posted("/chat", &[]);
    let key = StreamKey::new("7").join(true);
    joins.extensions_mut().insert(key);
    assert_eq!(chat.open(joins).await.id(), second.id());
    assert!(chat.feed.is_dropped());
    assert_eq!((chat.feed.called(), resume.stats().created), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_key_of_the_application_has_any_length_and_any_bytes() {
    let resume = resume(Memory::new());
    let chat = Chat::new(&resume);
    let megabyte = vec![b'k'; 1 << 20];
    let mut other = megabyte.clone();
    other[1 << 19] = b'l';
    let keys = [
        &megabyte,
        &other,
        &b"\xff\x00\xe9"[..],
        "\u{fc}".as_bytes(),
        b"",
    ];
    let mut ids = Vec::new();
    for key in keys {
        let (parts, _) = running("-").into_parts();
        assert_eq!(resume.key(&parts, key).await.status(), NONE);
        let mut request = posted("/chat", &[]);
        let key = StreamKey::new(key.to_vec());
        request.extensions_mut().insert(key);
        ids.push(chat.open(request).await.id());
    }
    for (key, id) in keys.into_iter().zip(ids) {
        let (parts, _) = running("-").into_parts();
        let found = resume.key(&parts, key).await;
        assert_eq!(found.headers()["stream-id"], id);
    }
}

#[tokio::test(start_paused = true)]
async fn simultaneous_requests_with_one_idempotency_key_call_one_handler() {
    let resume = resume(Memory::new());
    let chat = Chat::new(&resume);
    chat.hold();
    let (first, second) = (chat.open(idempotent("k")), chat.open(idempotent("k")));
    pin!(first, second);
    assert!(poll!(&mut first).is_pending());
    assert!(poll!(&mut second).is_pending());
    chat.allow();
    chat.allow();
    let (first, mut second) = tokio::join!(first, second);
    assert_eq!(chat.feed.called(), 1);
    assert_eq!(first.id(), second.id());
    assert!(first.response.headers().contains_key("link"));
    chat.feed.send("data: 1\n\ndata: 2\n\n");
    second.until("data: 2").await;
    // The answer to the first was lost, so the client retries.
    drop(first);
    let mut retried = chat.open(idempotent("k")).await;
    chat.feed.end();
    assert_eq!(retried.rest().await, second.rest().await);
    assert_eq!(Events::of(&retried.text).data, ["1", "2"]);
    assert_eq!(chat.feed.called(), 1);
    assert!(resume.shared.turns.is_empty());
    // A key joins only a stream that runs.
    let again = chat.open(idempotent("k")).await;
    assert_ne!(again.id(), second.id());
    assert_eq!(chat.feed.called(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_request_does_not_join() {
    let chat = Chat::new(&resume(Memory::new()));
    let id = chat.open(idempotent("k")).await.id();
    let mut calls = 1;
    let anonymous = || {
        let mut request = idempotent("k");
        request.headers_mut().remove("x-user");
        request
    };
    let mut read = idempotent("k");
    *read.method_mut() = http::Method::GET;
    let others = [
        of_owner(idempotent("k"), "mallory"),
        posted("/other", &[("idempotency-key", "k")]),
        idempotent("K"),
        idempotent("\"k\""),
        posted("/chat", &[]),
        read,
        // Without an owner, nobody knows whose key it is.
        anonymous(),
        anonymous(),
    ];
    for request in others {
        let asked = format!("{request:?}");
        assert_ne!(chat.open(request).await.id(), id, "{asked}");
        calls += 1;
        assert_eq!(chat.feed.called(), calls, "{asked}");
    }
    // The key of a request is not one of the application.
    assert_eq!(chat.status(running("k")).await, NONE);
}

#[tokio::test(start_paused = true)]
async fn a_bad_idempotency_key_is_refused_and_calls_no_handler() {
    let chat = Chat::new(&resume(Memory::new()));
    let long = "k".repeat(1 << 20);
    for key in ["", &long[..257], &long, "\u{e9}", "a\tb"] {
        let found = chat.status(idempotent(key)).await;
        assert_eq!(found, StatusCode::BAD_REQUEST, "{} bytes", key.len());
    }
    let fields = [("idempotency-key", "a"), ("idempotency-key", "b")];
    let found = chat.status(posted("/chat", &fields)).await;
    assert_eq!((found, chat.feed.called()), (StatusCode::BAD_REQUEST, 0));
    for key in [&long[..256], "8e03978e-40d5-43dd-bc93-6894a57f9324", "a b"] {
        assert_eq!(chat.status(idempotent(key)).await, StatusCode::OK);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_before_the_head_makes_room_for_the_next() {
    let resume = resume(Memory::new());
    let chat = Chat::new(&resume);
    chat.hold();
    let mut first = Box::pin(send(&chat.app, idempotent("k")));
    let mut second = Box::pin(send(&chat.app, idempotent("k")));
    let mut third = Box::pin(send(&chat.app, idempotent("k")));
    for request in [&mut first, &mut second, &mut third] {
        assert!(poll!(request).is_pending());
    }
    assert_eq!(chat.feed.called(), 1);
    // One that waits leaves, and then the one whose handler runs.
    drop(second);
    drop(first);
    assert!(chat.feed.is_dropped());
    assert!(poll!(&mut third).is_pending());
    settle().await;
    assert!(poll!(&mut third).is_pending());
    assert_eq!(chat.feed.called(), 2);
    chat.allow();
    assert_eq!(third.await.status(), StatusCode::OK);
    assert!(resume.shared.turns.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_key_of_a_response_that_is_no_stream_is_of_no_use_and_does_no_harm() {
    let resume = resume(Memory::new());
    let chat = Chat::new(&resume);
    for n in 1..3 {
        let json = [
            ("idempotency-key", "k"),
            ("x-chat", "7"),
            ("x-type", "application/json"),
        ];
        let mut whole = chat.open(posted("/chat", &json)).await;
        chat.feed.send("{}");
        chat.feed.end();
        assert_eq!(whole.rest().await, "{}");
        assert_eq!((chat.feed.called(), resume.stats().created), (n, 0));
    }
    assert_eq!(chat.status(running("7")).await, NONE);
    assert!(resume.shared.turns.is_empty());
}

#[tokio::test(start_paused = true)]
async fn while_the_log_is_down_a_key_finds_nothing_out_and_handlers_run() {
    let faulty = Faulty::shared(Memory::new());
    let down = faulty.switch();
    let chat = Chat::new(&resume(faulty));
    let mut first = chat.open(posted("/chat", &[("x-chat", "7")])).await;
    let id = first.id();
    down.store(true, Ordering::Relaxed);
    let refused = send(&chat.app, running("7")).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "2");
    for n in 2..4 {
        let mut plain = chat.open(idempotent("k")).await;
        chat.feed.send("data: 1\n\n");
        plain.until("data: 1").await;
        assert!(!plain.response.headers().contains_key("stream-id"));
        assert_eq!(chat.feed.called(), n);
    }
    down.store(false, Ordering::Relaxed);
    assert_eq!(chat.open(running("7")).await.id(), id);
    // A stream that has ended here does not run, also before the log has its end.
    down.store(true, Ordering::Relaxed);
    chat.feed.end();
    first.rest().await;
    settle().await;
    down.store(false, Ordering::Relaxed);
    assert_eq!(chat.status(running("7")).await, NONE);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_log_has_created_without_an_answer_is_not_joined() {
    let faulty = Faulty::shared(Memory::new());
    let unanswered = faulty.unanswered();
    let chat = Chat::new(&resume(faulty));
    unanswered.store(true, Ordering::Relaxed);
    let plain = chat.open(idempotent("k")).await;
    assert!(!plain.response.headers().contains_key("stream-id"));
    unanswered.store(false, Ordering::Relaxed);
    settle().await;
    let mut second = chat.open(idempotent("k")).await;
    assert_eq!(chat.feed.called(), 2);
    chat.feed.send("data: 1\n\n");
    second.until("data: 1").await;
}

#[tokio::test(start_paused = true)]
async fn of_two_replicas_one_stream_wins_and_both_clients_get_it() {
    let log = Memory::new();
    let chats = [resume(log.clone()), resume(log.clone())].map(|resume| Chat::new(&resume));
    let [here, there] = &chats;
    here.hold();
    there.hold();
    let (first, second) = (here.open(idempotent("k")), there.open(idempotent("k")));
    pin!(first, second);
    assert!(poll!(&mut first).is_pending());
    assert!(poll!(&mut second).is_pending());
    // Neither could know of the other: handlers are not run exactly once.
    assert_eq!([here, there].map(|chat| chat.feed.called()), [1, 1]);
    there.allow();
    let mut second = second.await;
    here.allow();
    let mut first = first.await;
    assert_eq!(first.id(), second.id());
    assert!(
        here.feed.is_dropped(),
        "the body of the other handler is dropped"
    );
    there.feed.send("data: 1\n\n");
    second.until("data: 1").await;
    let mut third = here.open(idempotent("k")).await;
    there.feed.end();
    let whole = second.rest().await;
    assert_eq!(Events::of(whole).data, ["1"]);
    assert_eq!(first.rest().await, whole);
    assert_eq!(third.rest().await, whole);
    assert_eq!([here, there].map(|chat| chat.feed.called()), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_replica_died_is_not_joined() {
    let log = Memory::new();
    let resume = resume(log.clone());
    let chat = Chat::new(&resume);
    let head = {
        let response = http::Response::builder().header("content-type", SSE);
        let (parts, ()) = response.body(()).unwrap().into_parts();
        Head::of(&parts, None).unwrap().encode()
    };
    let shared = &resume.shared;
    let (parts, _) = idempotent("k").into_parts();
    let Ok(Some(name)) = shared.request_name(&parts, Some("alice")) else {
        panic!("the request has a key");
    };
    let dead = |key: StreamKey| {
        let new = NewStream::new(head.clone(), Duration::from_secs(5)).with_key(key);
        let log = &log;
        async move { log.create(&StreamId::random(), new).await.unwrap() }
    };
    // While its lease lives, nobody knows, so the readers are told when it is over.
    for request in [idempotent("k"), running("7")] {
        dead(StreamKey::new(name.to_vec())).await;
        dead(shared.named(&StreamKey::new("7"), Some("alice"))).await;
        let mut joined = chat.open(request).await;
        assert_eq!(chat.feed.called(), 0);
        joined.rest().await;
        assert_eq!(joined.failed.unwrap().kind(), FaultKind::ProducerLost);
    }
    let again = chat.open(idempotent("k")).await;
    assert!(again.failed.is_none());
    assert_eq!(chat.feed.called(), 1);
    assert_eq!(chat.status(running("7")).await, NONE);
    // A handler that joins does not look before it creates.
    dead(shared.named(&StreamKey::new("8"), Some("alice"))).await;
    tokio::time::advance(Duration::from_secs(6)).await;
    let mut joins = posted("/chat", &[]);
    let key = StreamKey::new("8").join(true);
    joins.extensions_mut().insert(key);
    let mut own = chat.open(joins).await;
    chat.feed.send("data: 1\n\n");
    own.until("data: 1").await;
    assert_eq!(chat.open(running("8")).await.id(), own.id());
}
