//! The service of [`DrainLayer`](crate::DrainLayer).

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;
use tower_stream_core::{Cause, Fault, FaultKind};

use crate::{
    DrainBody, DrainFuture,
    body::Guard,
    close::{Closing, is_connect},
    farewell::message,
    refusal::{self, UnreadUpload},
    shared::Shared,
    token::DrainExtension,
};

/// Admits, counts and closes; see [`DrainLayer`](crate::DrainLayer).
#[derive(Clone)]
pub struct DrainService<S> {
    inner: S,
    shared: Option<Arc<Shared>>,
}

impl<S> DrainService<S> {
    pub(crate) fn new(inner: S, shared: Option<Arc<Shared>>) -> Self {
        Self { inner, shared }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for DrainService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ReqBody: Body,
{
    type Response = Response<DrainBody<ResBody>>;
    type Error = S::Error;
    type Future = DrainFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqBody>) -> DrainFuture<S::Future> {
        let Some(shared) = &self.shared else {
            return DrainFuture::uncounted(self.inner.call(request));
        };
        if !DrainExtension::insert(request.extensions_mut(), shared) {
            return DrainFuture::uncounted(self.inner.call(request));
        }
        let mut guard = match Guard::enter(shared) {
            Ok(guard) => guard,
            Err(word) => {
                let exempt;
                (exempt, request) = is_exempt(shared, request);
                // Under `serve`, a connection that was told to close cannot send another request, so this client has
                // not seen `Connection: close` or GOAWAY yet.
                let unknowing = shared.has_server() && shared.is_lenient();
                if !exempt && !unknowing {
                    shared.refuse(word);
                    return refused(shared, &request);
                }
                let guard = Guard::hold(shared);
                if let Some(word) = word {
                    shared.left(word);
                }
                guard
            }
        };
        guard.follow(request.extensions());
        let closing = Closing::of(request.version());
        let connect = is_connect(request.method());
        DrainFuture::counted(self.inner.call(request), guard, closing, connect)
    }
}

#[cold]
fn is_exempt<B>(shared: &Shared, request: Request<B>) -> (bool, Request<B>) {
    let settings = &shared.settings;
    let path = request.uri().path();
    let listed = settings.paths.iter().any(|exempt| exempt == path);
    let Some(rule) = settings.exempt.as_ref().filter(|_| !listed) else {
        return (listed, request);
    };
    let (parts, body) = request.into_parts();
    let exempt = rule(&parts);
    (exempt, Request::from_parts(parts, body))
}

#[cold]
fn refused<F, B: Body>(shared: &Shared, request: &Request<B>) -> DrainFuture<F> {
    let (mut response, reset) = refusal::answer(
        &shared.settings,
        request.method(),
        request.version(),
        request.extensions(),
    );
    if !request.body().is_end_stream() {
        response.extensions_mut().insert(UnreadUpload);
    }
    if reset && let Some(fault) = request.extensions().get::<Fault>() {
        // or the layers outside would see a body that failed
        fault.record(Cause::new(FaultKind::Drain, message::MESSAGE));
    }
    DrainFuture::refused(response, reset)
}

impl<S: fmt::Debug> fmt::Debug for DrainService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainService")
            .field("inner", &self.inner)
            .field("drain", &self.shared)
            .finish()
    }
}
