//! The service that resumes, cancels and describes streams by their id.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header, request::Parts};
use tokio::time::timeout;
use tower_service::Service;
use tower_stream_core::{Cause, FaultKind};

use crate::{
    LogErrorKind, StreamBody, StreamId, Takeover,
    cursor::{Cursor, LONGEST, Position, Refused},
    open::{last_event_id, private},
    resume::Shared,
};

/// Serves streams by their id. See [`Resume::routes`](crate::Resume::routes).
#[derive(Clone)]
pub struct Streams {
    shared: Arc<Shared>,
}

impl Streams {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl<B> Service<Request<B>> for Streams {
    type Response = Response<StreamBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<StreamBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        // No body is read.
        let (request, _) = request.into_parts();
        Box::pin(async move { Ok(shared.serve(&request).await) })
    }
}

impl Shared {
    async fn serve(self: &Arc<Self>, request: &Parts) -> Response<StreamBody> {
        // The service may be mounted with its path removed, as axum does it, or not.
        let path = request.uri.path();
        let path = path.strip_prefix(&self.path).unwrap_or(path);
        let mut segments = path.trim_matches('/').split('/');
        let public = segments.next().unwrap_or_default();
        let rest: Vec<_> = segments.collect();
        let owner = self.owner_of(request);
        let id = match self.issuer.read(public, owner.as_deref()) {
            Ok(id) => id,
            Err(_) => return self.refuse(request, Refused::Foreign),
        };
        match (&request.method, &rest[..]) {
            (&Method::GET | &Method::HEAD, []) => {
                match self.position(request, id, owner.as_deref()) {
                    Ok(at) => self.open(request, id, at).await,
                    Err(refused) => self.refuse(request, refused),
                }
            }
            (&Method::DELETE, []) => self.cancel(request, id).await,
            (&Method::GET | &Method::HEAD, ["status"]) => self.describe(request, id).await,
            (_, [] | ["status"]) => {
                let detail = "a stream is read with GET, and cancelled with DELETE";
                let status = StatusCode::METHOD_NOT_ALLOWED;
                let mut response = self.problem(&request.method, status, detail);
                let allowed = header::HeaderValue::from_static("GET, HEAD, DELETE");
                response.headers_mut().insert(header::ALLOW, allowed);
                response
            }
            _ => self.refuse(request, Refused::Foreign),
        }
    }

    /// Where the client wants to go on: by the header, else by the query.
    fn position(
        &self,
        request: &Parts,
        id: StreamId,
        owner: Option<&str>,
    ) -> Result<Position, Refused> {
        let text = match last_event_id(&request.headers) {
            Some(text) => text?,
            None => match after(&request.uri) {
                Some(text) => text,
                None => return Ok(Position::START),
            },
        };
        if text.len() > LONGEST {
            return Err(Refused::Malformed);
        }
        if let Ok(at) = Position::read(text) {
            return Ok(at);
        }
        let cursor = Cursor::read(&self.issuer, text, owner)?;
        match cursor.id == id {
            true => Ok(cursor.at),
            // A cursor of another stream.
            false => Err(Refused::Malformed),
        }
    }

    async fn cancel(self: &Arc<Self>, request: &Parts, id: StreamId) -> Response<StreamBody> {
        if !self.may_cancel(request) {
            let detail = "pages of this origin may not cancel streams";
            return self.problem(&request.method, StatusCode::FORBIDDEN, detail);
        }
        let cause = Cause::new(FaultKind::Cancelled, "a client cancelled the stream");
        if let Some(live) = self.live(&id) {
            live.stop(cause);
            return self.no_content();
        }
        let cancel = self.end_elsewhere(&id, Takeover::Always, cause);
        match timeout(self.lease, cancel).await {
            Ok(Ok(_)) => self.no_content(),
            Ok(Err(error)) if error.kind() == LogErrorKind::NotFound => self.gone(request),
            _ => self.unavailable(&request.method),
        }
    }

    /// Whether the page that sends the request, if it is one, may cancel: a form or a script of another site has the cookies too.
    fn may_cancel(&self, request: &Parts) -> bool {
        let Some(origin) = request.headers.get(header::ORIGIN) else {
            return true;
        };
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        let own = origin.split_once("://").map(|(_, host)| host);
        let is_own = own.is_some() && own == host(&request.headers, &request.uri);
        is_own || self.origins.iter().any(|allowed| allowed == origin)
    }

    async fn describe(self: &Arc<Self>, request: &Parts, id: StreamId) -> Response<StreamBody> {
        let status = match timeout(self.lease, self.log.status(&id)).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) if error.kind() == LogErrorKind::NotFound => return self.gone(request),
            _ => return self.unavailable(&request.method),
        };
        let live = self.live(&id);
        let state = match &status.end {
            Some(end) => end.as_str(),
            None if live.is_some() || status.lease.is_some() => "running",
            None => FaultKind::ProducerLost.as_str(),
        };
        let resumable = live.is_none_or(|live| live.is_resumable());
        let (epoch, first, next, bytes) = (status.epoch, status.first, status.next, status.bytes);
        let end = status
            .end_offset()
            .map_or("null".to_owned(), |end| end.to_string());
        let json = format!(
            "{{\"state\":\"{state}\",\"resumable\":{resumable},\"epoch\":{epoch},\"first\":{first},\
             \"next\":{next},\"end\":{end},\"bytes\":{bytes}}}\n"
        );
        let mut response = Response::new(Bytes::from(json));
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        tower_stream_core::answer_method(&request.method, &mut response);
        private(StreamBody::respond(response))
    }
}

fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let of_uri = uri.authority().map(|authority| authority.as_str());
    of_uri.or_else(|| headers.get(header::HOST)?.to_str().ok())
}

/// The value of `after` in the query. A cursor has no character that a query encodes.
fn after(uri: &Uri) -> Option<&str> {
    let mut pairs = uri.query()?.split('&');
    pairs.find_map(|pair| pair.strip_prefix("after="))
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}
