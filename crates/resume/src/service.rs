//! The layer and its service.
//!
//! Not a [`Hook`](tower_stream_core::wrapper::Hook): a stage borrows the body of the handler for a poll at a time, and this layer moves it into a
//! task that outlives the response.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::{runtime::Handle, time::timeout};
use tower_layer::Layer;
use tower_service::Service;
use tower_stream_core::{BoxError, Claim, Dialect, Exchange};
use tracing::Instrument;

use crate::{
    Created, Durability, Epoch, LogErrorKind, NewStream, ResponseBody, Restart, StreamId,
    StreamKey, WhoLeft,
    body::StreamBody,
    cursor::{Cursor, Name, Refused},
    head::{Head, announce},
    live::Live,
    open::{IsResumed, last_event_id},
    place::Place,
    producer::Producer,
    reader::Reader,
    resume::Shared,
};

/// Makes the streams of a handler resumable. See the [crate] documentation. Made by [`Resume::layer`](crate::Resume::layer).
///
/// # Panics
///
/// A request panics outside of a tokio runtime with its timer enabled.
#[derive(Clone)]
#[must_use = "a layer does nothing until a service is given to it"]
pub struct ResumeLayer {
    config: Option<Config>,
}

#[derive(Clone)]
struct Config {
    shared: Arc<Shared>,
    who_left: WhoLeft,
    durability: Durability,
    rule: Option<Rule>,
}

type Rule = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

impl ResumeLayer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            config: Some(Config {
                shared,
                who_left: WhoLeft::default(),
                durability: Durability::default(),
                rule: None,
            }),
        }
    }

    /// A disabled layer of the same type.
    pub const fn off() -> Self {
        Self { config: None }
    }

    /// Sets what happens to a producer when its last reader leaves. Default: `WhoLeft::Grace` with 30 s.
    pub fn who_left(mut self, who_left: WhoLeft) -> Self {
        if let Some(config) = &mut self.config {
            config.who_left = who_left;
        }
        self
    }

    /// Sets whether readers on this server wait until a record is stored. Default: [`Durability::Live`].
    ///
    /// ```
    /// use tower_stream_resume::{Durability, Memory, Resume};
    ///
    /// let resume = Resume::builder(Memory::new()).build();
    /// let layer = resume.layer().durability(Durability::Stored);
    /// ```
    pub fn durability(mut self, durability: Durability) -> Self {
        if let Some(config) = &mut self.config {
            config.durability = durability;
        }
        self
    }
}

impl ResumeLayer {
    /// Follows only requests for which this is true. All others pass, also those with a `Last-Event-ID`. Default: all.
    pub fn only_if(mut self, rule: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        if let Some(config) = &mut self.config {
            config.rule = Some(Arc::new(rule));
        }
        self
    }
}

impl<S> Layer<S> for ResumeLayer {
    type Service = ResumeService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ResumeService {
            inner,
            config: self.config.clone(),
        }
    }
}

/// The service of a [`ResumeLayer`].
#[derive(Clone)]
pub struct ResumeService<S> {
    inner: S,
    config: Option<Config>,
}

impl<S, ReqBody, B> Service<Request<ReqBody>> for ResumeService<S>
where
    S: Service<Request<ReqBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    ReqBody: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, B, S::Error>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let Some(config) = &self.config else {
            return ResponseFuture::inner(self.inner.call(request));
        };
        let (mut parts, body) = request.into_parts();
        if !config.follows(&parts) {
            let request = Request::from_parts(parts, body);
            return ResponseFuture::inner(self.inner.call(request));
        }
        if last_event_id(&parts.headers).is_some() {
            let shared = Arc::clone(&config.shared);
            return ResponseFuture::boxed(async move {
                let response = shared.resume(&parts).await;
                Ok(response.map(ResponseBody::stream))
            });
        }
        let config = config.clone();
        let owner = config.shared.owner_of(&parts);
        let name = match config.shared.request_name(&parts, owner.as_deref()) {
            Ok(name) => name,
            Err(_) => {
                let response = config.shared.refuse_key(&parts);
                let response = response.map(ResponseBody::stream);
                return ResponseFuture::boxed(async move { Ok(response) });
            }
        };
        let outer = parts.extensions.remove::<Exchange>();
        let exchange = apart(outer.as_ref());
        parts.extensions.insert(exchange.clone());
        let opener = Opener {
            owner,
            outer,
            exchange,
        };
        let request = Request::from_parts(parts, body);
        if let Some(name) = name {
            // The handler is called later, perhaps: the service that was ready must wait with the request.
            let next = self.inner.clone();
            let inner = std::mem::replace(&mut self.inner, next);
            return ResponseFuture::boxed(joined(config, opener, inner, request, name));
        }
        let head = self.inner.call(request);
        ResponseFuture::boxed(async move {
            let response = head.await?;
            Ok(begin(&config, opener, response, None).await)
        })
    }
}

impl Config {
    fn follows(&self, request: &Parts) -> bool {
        // The answer to HEAD has no body that could be kept, and CONNECT has no stream of records.
        let has_stream = !matches!(request.method, Method::HEAD | Method::CONNECT);
        has_stream && self.rule.as_ref().is_none_or(|rule| rule(request))
    }
}

/// Gives the producer an exchange of its own: how one reader's response ends is not how the producer ends. No layer inside adds an
/// `id:`, since the cursors are the ids.
fn apart(outer: Option<&Exchange>) -> Exchange {
    let inner = outer.map_or_else(Exchange::new, Exchange::apart);
    inner.claim(Claim::EventIds);
    inner
}

/// What the stream needs to know of the request that opens it.
pub(crate) struct Opener {
    pub(crate) owner: Option<String>,
    /// The exchange of the layers outside.
    pub(crate) outer: Option<Exchange>,
    /// The exchange of the handler.
    exchange: Exchange,
}

impl Shared {
    /// The response to a request with a `Last-Event-ID`.
    pub(crate) async fn resume(self: &Arc<Self>, request: &Parts) -> Response<StreamBody> {
        let text = match last_event_id(&request.headers) {
            Some(Ok(text)) => text,
            _ => return self.refuse(request, Refused::Malformed),
        };
        let owner = self.owner_of(request);
        match Cursor::read(&self.issuer, text, owner.as_deref()) {
            Ok(Cursor { id, at }) => self.open(request, id, at).await,
            Err(refused) => self.refuse(request, refused),
        }
    }
}

/// The response to a request with a key: the stream that runs under it, or that of the handler.
async fn joined<S, ReqBody, B>(
    config: Config,
    opener: Opener,
    mut inner: S,
    request: Request<ReqBody>,
    name: Name,
) -> Result<Response<ResponseBody<B>>, S::Error>
where
    S: Service<Request<ReqBody>, Response = Response<B>>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let shared = &config.shared;
    // Until the stream is created, so that of simultaneous requests to this process one calls the handler. If the client leaves
    // before, the next request calls it.
    let turn = shared.turns.turn(name);
    let _held = turn.wait().await;
    // If the log does not answer, the handler is called, as for any new stream.
    let running = shared.running(&name, opener.outer.as_ref());
    if let Ok(Ok(Some(id))) = timeout(LONGEST_CREATE, running).await {
        return Ok(shared.join(&opener, id).await.map(ResponseBody::stream));
    }
    let response = inner.call(request).await?;
    let key = StreamKey::new(name.to_vec()).join(true);
    Ok(begin(&config, opener, response, Some(key)).await)
}

/// A stream that the log may have created, although it has not said so: it did not answer, or the client has left. It would have no
/// producer, and its key would find it, so it is deleted.
struct Unknown<'a> {
    shared: &'a Shared,
    id: Option<StreamId>,
}

impl Drop for Unknown<'_> {
    fn drop(&mut self) {
        if let (Some(id), Ok(runtime)) = (self.id, Handle::try_current()) {
            let log = Arc::clone(&self.shared.log);
            runtime.spawn(async move { drop(log.delete(&id).await) });
        }
    }
}

/// Begins a stream with the response of the handler, if that is one. A key that the handler gives replaces this one.
async fn begin<B>(
    config: &Config,
    opener: Opener,
    response: Response<B>,
    key: Option<StreamKey>,
) -> Response<ResponseBody<B>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let shared = &config.shared;
    let (mut parts, body) = response.into_parts();
    let pass = |parts, body| Response::from_parts(parts, ResponseBody::inner(body));
    if parts.extensions.get::<IsResumed>().is_some() {
        return pass(parts, body);
    }
    let named = parts.extensions.get::<Dialect>().copied();
    let named = named.or_else(|| Dialect::of_headers(&parts.headers));
    let dialect = named.or_else(|| opener.exchange.dialect());
    let Some(head) = Head::of(&parts, dialect) else {
        return pass(parts, body);
    };
    let head = Head {
        #[cfg(feature = "trace")]
        traceparent: crate::link::current(),
        durability: config.durability,
        who_left: config.who_left,
        seed: parts.extensions.get().and_then(Restart::seed),
        ..head
    };
    let named = parts.extensions.remove::<StreamKey>();
    let named = named.map(|key| shared.named(&key, opener.owner.as_deref()));
    let id = StreamId::random();
    let mut new = NewStream::new(head.encode(), shared.lease);
    new.key = named.or(key);
    let mut unknown = Unknown {
        shared,
        id: Some(id),
    };
    let create = shared.create(&id, new, opener.outer.as_ref());
    let created = timeout(LONGEST_CREATE, create).await;
    if created.as_ref().is_ok_and(|created| match created {
        Ok(_) => true,
        Err(error) => error.kind() != LogErrorKind::Unavailable,
    }) {
        unknown.id = None;
    }
    match created {
        Ok(Ok(Created::New)) => {}
        Ok(Ok(Created::Joined(running))) => {
            drop(body);
            // Boxed: the futures of other requests should not have the size of this one.
            let response = Box::pin(shared.join(&opener, running)).await;
            return response.map(ResponseBody::stream);
        }
        failed => {
            let error = match failed {
                Ok(Err(error)) => error.to_string(),
                _ => "the log did not answer".to_owned(),
            };
            tracing::warn!(error, "a stream is not stored and cannot be resumed");
            shared.count(|figures| &figures.broken);
            return match config.durability {
                Durability::Live => pass(parts, body),
                // No record may be seen that is not stored. Not a HEAD request: these pass.
                Durability::Stored => shared.unavailable(&Method::GET).map(ResponseBody::stream),
            };
        }
    }
    shared.count(|figures| &figures.created);
    // The layers outside follow the reader, not the producer.
    parts.extensions.remove::<Exchange>();
    // Nor does one outside.
    let outer = opener.outer.as_ref();
    if let Some(outer) = outer {
        outer.claim(Claim::EventIds);
        shared.mark(outer);
    }
    let live = Arc::new(Live::new(id, Epoch::FIRST, head));
    shared.remember(&live);
    let public = shared.issuer.issue(&id, opener.owner.as_deref());
    let place = Place::new(shared, &live, 0, outer);
    let reader = Reader::live(shared, place, outer, &public, 0);
    let producer = Producer {
        shared: Arc::clone(shared),
        live,
        body,
        who_left: config.who_left,
        drain: outer.and_then(Exchange::hold_drain),
        permit: outer.and_then(Exchange::permit),
        exchange: opener.exchange,
    };
    let span = tracing::info_span!("producer", stream = ?id);
    tokio::spawn(producer.run().instrument(span));
    announce(&mut parts.headers, &shared.path, &public);
    parts.extensions.insert(IsResumed);
    let body = ResponseBody::stream(StreamBody::reader(reader));
    Response::from_parts(parts, body)
}

/// How long a response head waits for the log.
const LONGEST_CREATE: Duration = Duration::from_secs(1);

pin_project! {
    /// The response future of a [`ResumeService`].
    pub struct ResponseFuture<F, B, E> {
        #[pin]
        kind: FutureKind<F, B, E>,
    }
}

type Boxed<B, E> = Pin<Box<dyn Future<Output = Result<Response<ResponseBody<B>>, E>> + Send>>;

pin_project! {
    #[project = FutureKindProj]
    enum FutureKind<F, B, E> {
        Inner { #[pin] future: F },
        Boxed { future: Boxed<B, E> },
    }
}

impl<F, B, E> ResponseFuture<F, B, E> {
    fn inner(future: F) -> Self {
        Self {
            kind: FutureKind::Inner { future },
        }
    }

    fn boxed(
        future: impl Future<Output = Result<Response<ResponseBody<B>>, E>> + Send + 'static,
    ) -> Self {
        Self {
            kind: FutureKind::Boxed {
                future: Box::pin(future),
            },
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            FutureKindProj::Inner { future } => future
                .poll(cx)
                .map_ok(|response| response.map(ResponseBody::inner)),
            FutureKindProj::Boxed { future } => future.as_mut().poll(cx),
        }
    }
}

impl<F, B, E> fmt::Debug for ResponseFuture<F, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for ResumeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who_left = self.config.as_ref().map(|config| config.who_left);
        f.debug_struct("ResumeLayer")
            .field("who_left", &who_left)
            .finish_non_exhaustive()
    }
}

impl<S: fmt::Debug> fmt::Debug for ResumeService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeService")
            .field("inner", &self.inner)
            .field("is_on", &self.config.is_some())
            .finish_non_exhaustive()
    }
}
