//! The id of a request on the calls that its handler makes, with the clients that people use.

use std::{convert::Infallible, error::Error, sync::Arc};

use axum::{Router, extract::Request, response::Response, routing::get};
use bytes::Bytes;
use e2e::{Protocol, TestServer, serve};
use parking_lot::Mutex;
use tonic::{
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_stream::{
    ids::{self, ForwardRequestIdLayer},
    prelude::*,
};

#[allow(dead_code)]
mod grpc;

type BoxError = Box<dyn Error + Send + Sync>;
type Outcome = Result<(), BoxError>;

const NAME: &str = "x-request-id";

/// The ids of each call that an upstream has had.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Vec<String>>>>);

impl Seen {
    fn note<B>(&self, request: &http::Request<B>) {
        let ids = request.headers().get_all(NAME).iter();
        let ids = ids.map(|id| id.to_str().expect("ASCII").to_owned());
        self.0.lock().push(ids.collect());
    }

    fn take(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Answers with what was asked.
async fn upstream() -> Result<(TestServer, Seen), BoxError> {
    let seen = Seen::default();
    let note = seen.clone();
    let echo = move |request: Request| {
        note.note(&request);
        async { Response::new(request.into_body()) }
    };
    let server = serve(Router::new().fallback(echo)).await?;
    Ok((server, seen))
}

async fn grpc_upstream() -> Result<(TestServer, Seen), BoxError> {
    let seen = Seen::default();
    let note = seen.clone();
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        note.note(&request);
        async {
            let echo = service_fn(|request: tonic::Request<Bytes>| async {
                Ok::<_, tonic::Status>(tonic::Response::new(request.into_inner()))
            });
            let answer = tonic::server::Grpc::new(grpc::Raw)
                .unary(echo, request)
                .await;
            Ok::<_, Infallible>(answer)
        }
    });
    Ok((serve(service).await?, seen))
}

/// `reqwest::Client` is a service of requests of its own type; this makes it one of the usual ones.
fn reqwest_client()
-> BoxCloneSyncService<http::Request<reqwest::Body>, reqwest::Response, reqwest::Error> {
    let client = reqwest::Client::new();
    let send = service_fn(move |request: http::Request<reqwest::Body>| {
        let client = client.clone();
        async move { client.execute(request.try_into()?).await }
    });
    BoxCloneSyncService::new(ForwardRequestIdLayer::new().layer(send))
}

async fn ask_reqwest(url: String) -> Result<String, BoxError> {
    let request = http::Request::post(url).body(reqwest::Body::from("ask"))?;
    let response = reqwest_client().oneshot(request).await?;
    Ok(response.error_for_status()?.text().await?)
}

async fn ask_tonic(channel: Channel) -> Result<String, BoxError> {
    let mut client = Grpc::new(ForwardRequestIdLayer::new().layer(channel));
    client.ready().await?;
    let path = http::uri::PathAndQuery::from_static("/t.T/Ask");
    let request = tonic::Request::new(Bytes::from("ask"));
    let answer = client.unary(request, path, grpc::Raw).await?;
    Ok(String::from_utf8(answer.into_inner().into())?)
}

/// One handler asks at once, one from a task that stays with the request.
async fn front<A, F>(ask: A) -> Result<TestServer, BoxError>
where
    A: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<String, BoxError>> + Send + 'static,
{
    let (now, later) = (ask.clone(), ask);
    let answer = |asked: Result<String, BoxError>| asked.expect("the upstream answers");
    let app = Router::new()
        .route("/now", get(move || async move { answer(now().await) }))
        .route(
            "/task",
            get(move || async move { answer(ids::spawn(later()).await.expect("no panic")) }),
        );
    Ok(serve(app.layer(RequestIdLayer::new())).await?)
}

/// Every call that is made for a request has its id, once.
async fn check(front: &TestServer, seen: &Seen) -> Outcome {
    for protocol in [Protocol::Http11, Protocol::Http2] {
        for target in ["/now", "/task"] {
            for sent in [Some("order-17"), None] {
                let mut request = e2e::Request::get(target);
                if let Some(id) = sent {
                    request = request.header(NAME, id);
                }
                let response = protocol.send(front.addr(), &request).await?;
                assert_eq!(response.text(), "ask", "{protocol:?} {target}");
                let id = response.header(NAME).ok_or("an id")?;
                assert_eq!(sent.unwrap_or(id), id);
                assert_eq!(seen.take(), [[id]], "{protocol:?} {target}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn reqwest_sends_the_id_of_the_request() -> Outcome {
    let (upstream, seen) = upstream().await?;
    let url = format!("http://{}/ask", upstream.addr());
    let ask = {
        let url = url.clone();
        move || ask_reqwest(url.clone())
    };
    check(&front(ask).await?, &seen).await?;

    // Outside of any request there is no id to send.
    assert_eq!(ask_reqwest(url.clone()).await?, "ask");
    assert_eq!(seen.take(), [[""; 0]]);
    // A header that the caller has set is kept, also inside of a request.
    let scope = ids::RequestScope::new("order-17".parse()?, Sequence::new());
    let request = http::Request::post(url).header(NAME, "mine");
    let sent = reqwest_client().oneshot(request.body(reqwest::Body::default())?);
    tower_stream::core::Scoped::new(sent, scope).await?;
    assert_eq!(seen.take(), [["mine"]]);
    Ok(())
}

#[tokio::test]
async fn tonic_sends_the_id_of_the_request() -> Outcome {
    let (upstream, seen) = grpc_upstream().await?;
    let endpoint = Endpoint::from_shared(format!("http://{}", upstream.addr()))?;
    let channel = endpoint.connect().await?;
    let ask = {
        let channel = channel.clone();
        move || ask_tonic(channel.clone())
    };
    check(&front(ask).await?, &seen).await?;
    assert_eq!(ask_tonic(channel).await?, "ask");
    assert_eq!(seen.take(), [[""; 0]]);
    Ok(())
}
