//! Finds the stream that runs under a key: a name that the application has given it, or the `Idempotency-Key` of the request that
//! began it.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, Method, Request, Response, StatusCode, request::Parts};
use parking_lot::Mutex;
use tokio::{sync::MutexGuard, time::timeout};
use tower_stream_core::Exchange;

use crate::{
    Created, LogError, LogErrorKind, LogFuture, NewStream, Resume, StreamBody, StreamId, StreamKey,
    cursor::{Name, Position, Refused},
    open::last_event_id,
    resume::Shared,
    service::Opener,
};

impl Resume {
    /// The response to a request for the stream that runs under this key of the application: the stream from its start, and then live.
    /// To be called by a handler of the application, for clients that know the application's name for a stream, and not its id.
    ///
    /// The key is the name in the [`StreamKey`] that the handler of the stream has put into the extensions of its response. Of several
    /// streams with the same key, it is the one that began last. A key belongs to the owner of the request
    /// ([`Builder::owner`](crate::Builder::owner)): the same key of another owner is another one. **Without an owner, whoever can guess
    /// the key reads the stream**: then check first whether the client may.
    ///
    /// | response | when |
    /// |---|---|
    /// | the stream | it runs |
    /// | 204 | none runs under this key: there never was one, it has ended, or it is of another owner |
    /// | 503 with `Retry-After` | the log does not answer |
    ///
    /// A request with a `Last-Event-ID` goes on at that cursor, as everywhere. A cursor names its stream, so it goes on there if that
    /// stream has ended, or if another one now runs under the key.
    ///
    /// Put the route outside of the [`ResumeLayer`](crate::ResumeLayer), as [`Resume::routes`]. This is the route that the transport of
    /// npm `ai` asks to resume a chat:
    ///
    /// ```
    /// use axum::{
    ///     Extension, Router,
    ///     extract::{Path, Request, State},
    ///     http::StatusCode,
    ///     response::{IntoResponse, Response},
    ///     routing::{get, post},
    /// };
    /// use tower::ServiceExt;
    /// use tower_stream_resume::{Memory, Resume, StreamKey};
    ///
    /// async fn chat(id: String) -> impl IntoResponse {
    ///     // An application reads the id of the chat from the JSON of the request.
    ///     (Extension(StreamKey::new(id)), [("content-type", "text/event-stream")], "data: {}\n\n")
    /// }
    ///
    /// async fn running(State(resume): State<Resume>, Path(id): Path<String>, request: Request) -> Response {
    ///     let (request, _) = request.into_parts();
    ///     resume.key(&request, id).await.into_response()
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let resume = Resume::builder(Memory::new()).build();
    /// let app: Router = Router::new()
    ///     .route("/api/chat", post(chat))
    ///     .layer(resume.layer())
    ///     .route("/api/chat/{id}/stream", get(running))
    ///     .with_state(resume);
    ///
    /// let request = Request::get("/api/chat/7/stream").body(axum::body::Body::empty()).unwrap();
    /// let response = app.oneshot(request).await.unwrap();
    /// assert_eq!(response.status(), StatusCode::NO_CONTENT);
    /// # }
    /// ```
    #[must_use = "the response is to be returned"]
    pub async fn key(&self, request: &Parts, key: impl AsRef<[u8]>) -> Response<StreamBody> {
        let shared = &self.shared;
        if last_event_id(&request.headers).is_some() {
            return shared.resume(request).await;
        }
        let owner = shared.owner_of(request);
        let name = shared.application_name(key.as_ref(), owner.as_deref());
        let running = shared.running(&name, Exchange::get(&request.extensions));
        match timeout(shared.lease, running).await {
            Ok(Ok(Some(id))) => shared.open(request, id, Position::START).await,
            Ok(Ok(None)) => shared.no_content(),
            _ => shared.unavailable(&request.method),
        }
    }
}

impl Shared {
    /// The name of a key of the application.
    fn application_name(&self, key: &[u8], owner: Option<&str>) -> Name {
        let has_owner: &[u8] = if owner.is_some() { b"o" } else { b"-" };
        let owner = owner.unwrap_or_default().as_bytes();
        self.issuer.name(&[b"application", has_owner, owner, key])
    }

    /// The key as the log gets it.
    pub(crate) fn named(&self, key: &StreamKey, owner: Option<&str>) -> StreamKey {
        let name = self.application_name(&key.name, owner);
        StreamKey::new(name.to_vec()).join(key.join)
    }

    /// The name of the `Idempotency-Key` of a request. `None` if it has none that this layer follows.
    ///
    /// Without an owner the field is not followed: two strangers who both send `1` would read each other's stream.
    ///
    /// # Errors
    ///
    /// `Malformed` if the key is.
    #[inline]
    pub(crate) fn request_name(
        &self,
        request: &Parts,
        owner: Option<&str>,
    ) -> Result<Option<Name>, Refused> {
        if request.method != Method::POST || !request.headers.contains_key(IDEMPOTENCY_KEY) {
            return Ok(None);
        }
        let Some(owner) = owner else {
            return Ok(None);
        };
        let key = idempotency_key(&request.headers).ok_or(Refused::Malformed)?;
        let (method, path) = (request.method.as_str(), request.uri.path());
        let parts = ["request", owner, method, path].map(str::as_bytes);
        let [purpose, owner, method, path] = parts;
        Ok(Some(self.issuer.name(&[purpose, owner, method, path, key])))
    }

    /// The response to a request whose `Idempotency-Key` is malformed.
    pub(crate) fn refuse_key(&self, request: &Parts) -> Response<StreamBody> {
        let detail = "an Idempotency-Key has 1 to 256 printable ASCII characters";
        self.problem(&request.method, StatusCode::BAD_REQUEST, detail)
    }

    /// The stream that runs under this name. `outer` is that of the request, in case that the stream is restarted here.
    pub(crate) async fn running(
        self: &Arc<Self>,
        name: &Name,
        outer: Option<&Exchange>,
    ) -> Result<Option<StreamId>, LogError> {
        let Some(id) = self.log.find(name).await? else {
            return Ok(None);
        };
        Ok(self.runs(&id, outer).await?.then_some(id))
    }

    /// Whether the stream has not ended. Restarts or ends it if its producer is lost.
    async fn runs(
        self: &Arc<Self>,
        id: &StreamId,
        outer: Option<&Exchange>,
    ) -> Result<bool, LogError> {
        if let Some(live) = self.live(id) {
            return Ok(live.end_offset().is_none());
        }
        match self.look_after(id, outer).await {
            Ok(status) => Ok(status.end.is_none()),
            Err(error) if error.kind() == LogErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Creates a stream, or finds the one that runs under its key.
    pub(crate) fn create<'a>(
        self: &'a Arc<Self>,
        id: &'a StreamId,
        mut new: NewStream,
        outer: Option<&'a Exchange>,
    ) -> LogFuture<'a, Created> {
        if new.key.as_ref().is_none_or(|key| !key.join) {
            return self.log.create(id, new);
        }
        Box::pin(async move {
            let created = self.log.create(id, new.clone()).await?;
            match created {
                // For the log it has not ended: its producer is lost, or has not stored the end yet.
                Created::Joined(running) if !self.runs(&running, outer).await? => {
                    // That of a producer here is stored in a moment. Any other is, so that of requests to several servers one creates.
                    let is_stored = self.live(&running).is_none();
                    new.key = new.key.map(|key| key.join(is_stored));
                    self.log.create(id, new).await
                }
                created => Ok(created),
            }
        })
    }

    /// The response to a request that joins this stream.
    pub(crate) async fn join(
        self: &Arc<Self>,
        opener: &Opener,
        id: StreamId,
    ) -> Response<StreamBody> {
        // The handler may have taken the request.
        let (mut request, ()) = Request::new(()).into_parts();
        if let Some(outer) = &opener.outer {
            request.extensions.insert(outer.clone());
        }
        let public = self.issuer.issue(&id, opener.owner.as_deref());
        self.open_as(&request, id, &public, Position::START).await
    }
}

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The value of `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), if it is a good one. Its quotes, if it has some, are part of
/// it.
fn idempotency_key(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = values.next()?.as_bytes();
    let is_good =
        (1..=256).contains(&key.len()) && key.iter().all(|byte| (b' '..=b'~').contains(byte));
    (is_good && values.next().is_none()).then_some(key)
}

/// The requests with a key for which this process is finding a stream: one at a time for each key.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>);

/// A place among the requests with the same key.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    name: Name,
    /// Always there, but in `drop`.
    lock: Option<Arc<tokio::sync::Mutex<()>>>,
}

impl Turns {
    pub(crate) fn turn(&self, name: Name) -> Turn<'_> {
        let lock = Arc::clone(self.0.lock().entry(name).or_default());
        Turn {
            turns: self,
            name,
            lock: Some(lock),
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl Turn<'_> {
    /// Waits for the requests before this one.
    pub(crate) async fn wait(&self) -> Option<MutexGuard<'_, ()>> {
        Some(self.lock.as_ref()?.lock().await)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = self.turns.0.lock();
        // Under the lock of the map, so that of several the last one finds that it is.
        self.lock = None;
        if turns.get(&self.name).map(Arc::strong_count) == Some(1) {
            turns.remove(&self.name);
        }
    }
}
