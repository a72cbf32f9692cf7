//! A handler whose bodies the test drives, and a client that takes its cursor from whole events.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, body::Body, response::Response, routing::get};
use bytes::Bytes;
use futures_util::{FutureExt, stream};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tower::ServiceExt;
use tower_stream_core::{BoxError, Cause};

use crate::{Builder, Resume, ResumeLayer, StreamLog};

pub(crate) const SSE: &str = "text/event-stream";

type Sender = mpsc::UnboundedSender<Result<Bytes, BoxError>>;

/// The bodies that the handler has returned, and how often it was called.
#[derive(Clone, Default)]
pub(crate) struct Feed {
    senders: Arc<Mutex<Vec<Sender>>>,
    pub(crate) calls: Arc<AtomicUsize>,
}

impl Feed {
    pub(crate) fn response_body(&self) -> Body {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::unbounded_channel();
        self.senders.lock().push(sender);
        Body::from_stream(stream::unfold(receiver, |mut receiver| async {
            let item: Result<Bytes, BoxError> = receiver.recv().await?;
            // A scripted panic.
            if item.as_ref().is_ok_and(|data| data == "panic") {
                panic!("scripted");
            }
            Some((item, receiver))
        }))
    }

    pub(crate) fn last(&self) -> Sender {
        self.senders.lock().last().unwrap().clone()
    }

    pub(crate) fn send(&self, data: impl Into<String>) {
        let _ = self.last().send(Ok(data.into().into()));
    }

    /// Ends the bodies.
    pub(crate) fn end(&self) {
        self.senders.lock().clear();
    }

    /// Whether the body that was made last has been dropped.
    pub(crate) fn is_dropped(&self) -> bool {
        self.last().is_closed()
    }

    pub(crate) fn called(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

pub(crate) fn resume(log: impl StreamLog) -> Resume {
    builder(log).build()
}

pub(crate) fn builder(log: impl StreamLog) -> Builder {
    let owner = |request: &http::request::Parts| {
        let user = request.headers.get("x-user")?;
        user.to_str().ok().map(str::to_owned)
    };
    Resume::builder(log).secret("a secret").owner(owner)
}

pub(crate) fn app(
    resume: &Resume,
    layer: ResumeLayer,
    content_type: &'static str,
) -> (Router, Feed) {
    let feed = Feed::default();
    let handler = {
        let feed = feed.clone();
        move || {
            let body = feed.response_body();
            async move {
                let response = Response::builder();
                let response = response.header("content-type", content_type);
                let response = response.header("set-cookie", "private=1");
                Ok::<_, Infallible>(response.body(body).unwrap())
            }
        }
    };
    let app = Router::new().route("/", get(handler).post_service(tower::service_fn(never)));
    let app = app.layer(layer).nest_service("/streams", resume.routes());
    (app, feed)
}

async fn never(_: Request<Body>) -> Result<Response, Infallible> {
    Ok(Response::new(Body::empty()))
}

pub(crate) fn request(path: &str) -> Request<Body> {
    let request = Request::get(path).header("x-user", "alice");
    request.body(Body::empty()).unwrap()
}

pub(crate) fn with_cursor(path: &str, cursor: &str) -> Request<Body> {
    let mut request = request(path);
    let cursor = cursor.parse().unwrap();
    request.headers_mut().insert("last-event-id", cursor);
    request
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> Response {
    app.clone().oneshot(request).await.unwrap()
}

pub(crate) async fn status_of(app: &Router, request: Request<Body>) -> StatusCode {
    send(app, request).await.status()
}

/// A response that is read piece by piece.
pub(crate) struct Client {
    pub(crate) response: Response,
    pub(crate) text: String,
    /// Why the body failed.
    pub(crate) failed: Option<Cause>,
}

impl Client {
    pub(crate) async fn open(app: &Router, request: Request<Body>) -> Self {
        let response = send(app, request).await;
        assert_eq!(response.status(), StatusCode::OK);
        Self {
            response,
            text: String::new(),
            failed: None,
        }
    }

    pub(crate) fn id(&self) -> String {
        let id = self.response.headers()["stream-id"].to_str();
        id.unwrap().to_owned()
    }

    /// Reads until the text contains this.
    pub(crate) async fn until(&mut self, needle: &str) {
        while !self.text.contains(needle) {
            assert!(self.frame().await, "{needle:?} is not in {:?}", self.text);
        }
    }

    /// Reads to the end.
    pub(crate) async fn rest(&mut self) -> &str {
        while self.frame().await {}
        &self.text
    }

    async fn frame(&mut self) -> bool {
        match self.response.body_mut().frame().await {
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap();
                self.text.push_str(std::str::from_utf8(&data).unwrap());
                true
            }
            Some(Err(error)) => {
                self.failed = Some(Cause::of(&error));
                false
            }
            None => false,
        }
    }

    pub(crate) fn is_waiting(&mut self) -> bool {
        self.response.body_mut().frame().now_or_never().is_none()
    }

    pub(crate) fn cursor(&self) -> String {
        Events::of(&self.text).cursor.unwrap()
    }
}

/// What a client of server-sent events makes of some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Events {
    pub(crate) data: Vec<String>,
    pub(crate) cursor: Option<String>,
    /// The length of the whole events.
    pub(crate) whole: usize,
}

impl Events {
    pub(crate) fn of(text: &str) -> Self {
        let mut events = Self::default();
        let mut rest = text;
        while let Some((block, next)) = rest.split_once("\n\n") {
            for line in block.lines() {
                if let Some(id) = line.strip_prefix("id: ") {
                    events.cursor = Some(id.to_owned());
                } else if let Some(data) = line.strip_prefix("data: ") {
                    events.data.push(data.to_owned());
                }
            }
            rest = next;
            events.whole = text.len() - rest.len();
        }
        events
    }
}
