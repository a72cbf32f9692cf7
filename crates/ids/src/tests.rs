use std::{
    collections::HashSet,
    convert::Infallible,
    future::pending,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use parking_lot::Mutex;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_stream_body::mock::{self, MockBody};

use super::*;

const NAME: &str = "x-request-id";

fn request(ids: &[&[u8]]) -> Request<()> {
    let mut request = Request::new(());
    for id in ids {
        let value = HeaderValue::from_bytes(id).unwrap();
        request.headers_mut().append(NAME, value);
    }
    request
}

/// What the handler saw: the header lines, the extension, the scope.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    headers: Vec<String>,
    extension: Option<String>,
    scope: Option<String>,
}

impl Seen {
    fn of<B>(request: &Request<B>) -> Self {
        let lines = request.headers().get_all(NAME).iter();
        Self {
            headers: lines.map(|v| format!("{v:?}").replace('"', "")).collect(),
            extension: request
                .extensions()
                .get::<RequestId>()
                .map(ToString::to_string),
            scope: current(),
        }
    }
}

fn current() -> Option<String> {
    RequestScope::current()
        .request_id()
        .map(ToString::to_string)
}

/// Sends a request; gives what the handler saw and the id lines of the response.
async fn serve(layer: &RequestIdLayer, request: Request<()>) -> (Seen, Vec<String>) {
    let seen = Arc::new(Mutex::new(None));
    let inner = {
        let seen = Arc::clone(&seen);
        service_fn(move |request: Request<()>| {
            *seen.lock() = Some(Seen::of(&request));
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        })
    };
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    let lines = response.headers().get_all(NAME).iter();
    let sent = lines.map(|v| v.to_str().unwrap().to_owned()).collect();
    (seen.lock().take().unwrap(), sent)
}

async fn assert_taken(layer: &RequestIdLayer, inbound: &[&[u8]], id: &str) {
    let (seen, sent) = serve(layer, request(inbound)).await;
    let id = id.to_owned();
    assert_eq!(sent, std::slice::from_ref(&id));
    assert_eq!(
        seen,
        Seen {
            headers: vec![id.clone()],
            extension: Some(id.clone()),
            scope: Some(id),
        }
    );
}

/// The new id.
async fn assert_new(layer: &RequestIdLayer, inbound: &[&[u8]]) -> String {
    let (seen, sent) = serve(layer, request(inbound)).await;
    let id = sent.first().cloned().unwrap();
    assert!(!inbound.contains(&id.as_bytes()), "{id}");
    assert!(id.parse::<uuid::Uuid>().is_ok(), "{id}");
    assert_eq!(sent, std::slice::from_ref(&id));
    assert_eq!(seen.headers, std::slice::from_ref(&id));
    assert_eq!(
        (seen.extension.as_ref(), seen.scope.as_ref()),
        (Some(&id), Some(&id))
    );
    id
}

#[tokio::test]
async fn a_valid_inbound_id_is_the_id_everywhere() {
    let layer = RequestIdLayer::new();
    for id in ["order-17", "a", &"x".repeat(128), "A.b_c+d/e=f@g-0"] {
        assert_taken(&layer, &[id.as_bytes()], id).await;
    }
    assert_eq!(layer.replaced(), 0);
}

#[tokio::test]
async fn without_an_inbound_id_one_is_made() {
    let layer = RequestIdLayer::new();
    assert_ne!(assert_new(&layer, &[]).await, assert_new(&layer, &[]).await);
    assert_eq!(layer.replaced(), 0);
}

#[tokio::test]
async fn a_bad_inbound_id_is_replaced_and_counted() {
    let layer = RequestIdLayer::new();
    let long = [b'x'; 129];
    let bad: [&[u8]; 8] = [
        b"",
        &long,
        b"a\tb",
        b"\xff",
        "é".as_bytes(),
        b"a b",
        b"a,b",
        b"<script>",
    ];
    for id in bad {
        assert_new(&layer, &[id]).await;
    }
    assert_eq!(layer.replaced(), 8);
    assert_new(&layer.clone(), &[b" ", b""]).await;
    assert_eq!(
        layer.replaced(),
        9,
        "one request counts once, whichever clone it meets"
    );
}

#[tokio::test]
async fn of_several_inbound_ids_the_first_valid_one_goes_on_alone() {
    let layer = RequestIdLayer::new();
    assert_taken(&layer, &[b"one", b"two"], "one").await;
    assert_taken(&layer, &[b"bad one", b"two", b"three"], "two").await;
    assert_taken(&layer, &[b"one", b"bad two"], "one").await;
    assert_eq!(layer.replaced(), 0);
}

#[tokio::test]
async fn trust_decides_whose_ids_are_taken() {
    let never = RequestIdLayer::new().trust(Trust::Never);
    assert_new(&never, &[b"one"]).await;
    assert_eq!(never.replaced(), 0);

    let when = Trust::when(|head| head.extensions.get::<u8>() == Some(&1));
    let layer = RequestIdLayer::new().trust(when);
    assert_new(&layer, &[b"one"]).await;
    let mut trusted = request(&[b"one"]);
    trusted.extensions_mut().insert(1_u8);
    assert_eq!(serve(&layer, trusted).await.1, ["one"]);
}

#[tokio::test]
async fn header_and_maker_can_be_chosen() {
    let layer = RequestIdLayer::new()
        .header(HeaderName::from_static("x-trace"))
        .make(|head: &http::request::Parts| head.uri.path().replace('/', "p").parse().unwrap());
    let inner = service_fn(|request: Request<()>| async move {
        assert_eq!(request.headers()["x-trace"], "pa");
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let mut request = request(&[b"one"]);
    *request.uri_mut() = "/a".parse().unwrap();
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    assert_eq!(response.headers()["x-trace"], "pa");
    assert!(!response.headers().contains_key(NAME));
}

#[tokio::test]
async fn what_the_handler_set_is_replaced() {
    let inner = service_fn(|_: Request<()>| async {
        let response = Response::builder().header(NAME, "x").header(NAME, "y");
        Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap())
    });
    let service = RequestIdLayer::new().layer(inner);
    let response = service.oneshot(request(&[b"one"])).await.unwrap();
    let lines: Vec<_> = response.headers().get_all(NAME).iter().collect();
    assert_eq!(lines, ["one"]);
}

#[tokio::test]
async fn an_error_passes_and_a_response_made_of_it_inside_has_the_id() {
    let failing = service_fn(|_: Request<()>| async {
        Err::<Response<Empty<Bytes>>, _>(std::io::Error::other("down"))
    });
    let bare = RequestIdLayer::new().layer(failing);
    assert_eq!(
        bare.oneshot(request(&[])).await.unwrap_err().to_string(),
        "down"
    );

    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .service(service_fn(move |request| async move {
            let answer = failing.oneshot(request).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|_| {
                let response = Response::builder().status(StatusCode::BAD_GATEWAY);
                response.body(Empty::new()).unwrap()
            }))
        }));
    let response = service.oneshot(request(&[b"one"])).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(response.headers()[NAME], "one");
}

#[tokio::test]
async fn a_second_layer_inside_keeps_the_ids_of_the_first() {
    let sequences = Arc::new(Mutex::new(Vec::<Sequence>::new()));
    let outer = Arc::clone(&sequences);
    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .map_request(move |mut request: Request<()>| {
            outer
                .lock()
                .extend(request.extensions().get::<Sequence>().cloned());
            request.headers_mut().remove(NAME);
            request
        })
        .layer(RequestIdLayer::new().trust(Trust::Never))
        .service(service_fn(|request: Request<()>| async move {
            assert_eq!(request.headers()[NAME], "one");
            request.extensions().get::<Sequence>().unwrap().next();
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
    let response = service.oneshot(request(&[b"one"])).await.unwrap();
    assert_eq!(response.headers().get_all(NAME).iter().count(), 1);
    assert_eq!(response.headers()[NAME], "one");
    assert_eq!(sequences.lock()[0].last(), 1);
}

#[tokio::test]
async fn off_it_does_nothing() {
    let (seen, sent) = serve(&RequestIdLayer::off(), request(&[b"bad one", b"two"])).await;
    assert!(sent.is_empty());
    assert_eq!(seen.headers, ["bad one", "two"]);
    assert_eq!((seen.extension, seen.scope), (None, None));
}

#[tokio::test]
async fn an_upgrade_keeps_what_it_needs() {
    let inner = service_fn(|mut request: Request<()>| async move {
        assert_eq!(request.extensions_mut().remove::<u8>(), Some(7));
        let response = Response::builder()
            .status(101)
            .header("connection", "upgrade");
        Ok::<_, Infallible>(
            response
                .extension(9_u8)
                .body(Empty::<Bytes>::new())
                .unwrap(),
        )
    });
    let mut request = request(&[b"one"]);
    request.extensions_mut().insert(7_u8);
    let response = RequestIdLayer::new()
        .layer(inner)
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["connection"], "upgrade");
    assert_eq!(response.headers()[NAME], "one");
    assert_eq!(response.extensions().get::<u8>(), Some(&9));
}

/// Where code ran, and for which request.
type Places = Arc<Mutex<Vec<(&'static str, Option<String>)>>>;

/// A body that notes the scope in which it runs.
struct Noting {
    places: Places,
    frames: usize,
}

impl Noting {
    fn note(&self, place: &'static str) {
        self.places.lock().push((place, current()));
    }
}

impl Body for Noting {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.note("poll");
        self.frames += 1;
        Poll::Ready((self.frames < 3).then(|| Ok(Frame::data(Bytes::from("x")))))
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        self.note("drop");
    }
}

#[tokio::test]
async fn the_scope_is_entered_wherever_the_request_runs() {
    let places = Places::default();
    let note = |places: &Places, place| places.lock().push((place, current()));
    let inner = {
        let places = Arc::clone(&places);
        service_fn(move |_: Request<()>| {
            note(&places, "call");
            let places = Arc::clone(&places);
            async move {
                note(&places, "future");
                tokio::task::yield_now().await;
                note(&places, "future");
                let from_task = Arc::clone(&places);
                spawn(async move {
                    tokio::task::yield_now().await;
                    note(&from_task, "task");
                })
                .await
                .unwrap();
                let from_thread = Arc::clone(&places);
                tokio::task::spawn_blocking(in_request(move || note(&from_thread, "blocking")))
                    .await
                    .unwrap();
                Ok::<_, Infallible>(Response::new(Noting { places, frames: 0 }))
            }
        })
    };
    let response = RequestIdLayer::new()
        .layer(inner)
        .oneshot(request(&[b"one"]))
        .await
        .unwrap();
    assert_eq!(current(), None);
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(current(), None);
    drop(body);
    let one = || Some("one".to_owned());
    assert_eq!(
        *places.lock(),
        [
            "call", "future", "future", "task", "blocking", "poll", "drop"
        ]
        .map(|p| (p, one()))
    );
}

#[test]
fn a_request_that_is_given_up_is_dropped_in_its_scope() {
    struct OnDrop(Arc<Mutex<Option<String>>>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            *self.0.lock() = current();
        }
    }
    let seen = Arc::new(Mutex::new(None));
    let guard = OnDrop(Arc::clone(&seen));
    let inner = service_fn(move |_: Request<()>| {
        let guard = OnDrop(Arc::clone(&guard.0));
        async move {
            let _guard = guard;
            pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
        }
    });
    {
        let future = RequestIdLayer::new().layer(inner).call(request(&[b"one"]));
        let mut future = pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(future.as_mut().poll(&mut cx).is_pending());
    }
    assert_eq!(seen.lock().as_deref(), Some("one"));
}

#[tokio::test]
async fn the_body_is_forwarded_as_it_is() {
    let body = || {
        MockBody::new([mock::data("abc"), mock::trailer("x-end", "yes")])
            .with_size_hint(SizeHint::with_exact(3))
            .tells_end()
    };
    let inner =
        service_fn(move |_: Request<()>| async move { Ok::<_, Infallible>(Response::new(body())) });
    for layer in [RequestIdLayer::new(), RequestIdLayer::off()] {
        let response = layer.layer(inner).oneshot(request(&[])).await.unwrap();
        let mut body = response.into_body();
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "abc"
        );
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(!body.is_end_stream());
        assert!(body.frame().await.unwrap().unwrap().is_trailers());
        assert!(body.is_end_stream());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_interleaved_requests_share_no_sequence_and_skip_no_number() {
    let inner = service_fn(|request: Request<()>| async move {
        let sequence = request.extensions().get::<Sequence>().unwrap().clone();
        tokio::task::yield_now().await;
        let steps = (0..5).flat_map(|_| [mock::pending(), mock::data("x")]);
        let mut response = Response::new(MockBody::new(steps));
        response.extensions_mut().insert(sequence);
        Ok::<_, Infallible>(response)
    });
    let service = ServiceBuilder::new()
        .layer(RequestIdLayer::new())
        .layer(SequenceLayer::new())
        .service(inner);
    let tasks = (0..100).map(|_| {
        let service = service.clone();
        tokio::spawn(async move {
            join_all((0..100).map(|_| async {
                let response = service.clone().oneshot(request(&[])).await.unwrap();
                let id = response.headers()[NAME].to_str().unwrap().to_owned();
                let sequence = response.extensions().get::<Sequence>().unwrap().clone();
                let mut body = response.into_body();
                let mut numbers = Vec::new();
                while let Some(frame) = body.frame().await {
                    frame.unwrap();
                    numbers.push(sequence.last());
                    tokio::task::yield_now().await;
                }
                assert_eq!(numbers, [1, 2, 3, 4, 5]);
                id
            }))
            .await
        })
    });
    let mut ids = HashSet::new();
    for task in join_all(tasks).await {
        ids.extend(task.unwrap());
    }
    assert_eq!(ids.len(), 10_000);
}

/// Sends a request through the client layer; gives its id lines.
async fn forwarded(layer: ForwardRequestIdLayer, request: Request<()>) -> Vec<String> {
    let client = layer.layer(service_fn(|request: Request<()>| async move {
        Ok::<_, Infallible>(Seen::of(&request).headers)
    }));
    client.oneshot(request).await.unwrap()
}

#[tokio::test]
async fn an_outgoing_call_has_the_id_of_the_request_that_makes_it() {
    let scope = RequestScope::new("one".parse().unwrap(), Sequence::new());
    let within =
        |layer, request| tower_stream_body::Scoped::new(forwarded(layer, request), scope.clone());
    let layer = ForwardRequestIdLayer::new;
    assert_eq!(within(layer(), request(&[])).await, ["one"]);
    assert_eq!(within(layer(), request(&[b"set"])).await, ["set"]);
    assert!(
        within(ForwardRequestIdLayer::off(), request(&[]))
            .await
            .is_empty()
    );
    let other = layer().header(HeaderName::from_static("x-trace"));
    assert!(within(other, request(&[])).await.is_empty());

    assert!(forwarded(layer(), request(&[])).await.is_empty());
    let mut with_extension = request(&[]);
    with_extension
        .extensions_mut()
        .insert("two".parse::<RequestId>().unwrap());
    assert_eq!(forwarded(layer(), with_extension).await, ["two"]);
}

#[tokio::test]
async fn a_real_client_sends_the_id_to_a_real_server() {
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};

    let app = axum::Router::new()
        .route(
            "/",
            axum::routing::get(|id: RequestId| async move { id.to_string() }),
        )
        .layer(RequestIdLayer::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let client = ServiceBuilder::new()
        .layer(ForwardRequestIdLayer::new())
        .service(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());
    let call = async move {
        let request = Request::get(format!("http://{address}/")).body(Full::default());
        client.oneshot(request.unwrap()).await.unwrap()
    };
    let scope = RequestScope::new("one".parse().unwrap(), Sequence::new());
    let response = tower_stream_body::Scoped::new(call, scope).await;
    assert_eq!(response.headers()[NAME], "one");
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "one"
    );
    server.abort();
}

#[test]
fn layers_and_futures_can_be_shared() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    fn sync<T: Send + Sync>() {}
    shared::<RequestIdLayer>();
    shared::<SequenceLayer>();
    shared::<ForwardRequestIdLayer>();
    shared::<RequestScope>();
    sync::<ResponseBody<SequenceBody<Full<Bytes>>>>();
}
