//! The app, as one connection uses it.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::{Extensions, Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;
use tower_stream_core::BoxError;
use tower_stream_drain::server::{Closing, RefusedStream, UnreadUpload};

use crate::{
    connection::{ConnectionHandle, RequestPart},
    preface::Version,
    request_body::{RequestBody, is_conversation},
    streams::GuardedBody,
};

/// The app with what each request of one connection gets.
pub(crate) struct ConnectedApp<S> {
    app: S,
    /// What each request has in its extensions.
    extensions: Extensions,
    handle: Arc<ConnectionHandle>,
}

impl<S> ConnectedApp<S> {
    pub(crate) fn new<A>(app: S, peer: A, handle: Arc<ConnectionHandle>) -> Self
    where
        A: Clone + Send + Sync + 'static,
    {
        Self {
            app,
            extensions: with_peer(peer),
            handle,
        }
    }
}

/// The extensions of each request, with room for those of axum's router and one layer.
///
/// A request gets a clone. It has the size of its original, so further insertions need not move the entries to a larger
/// table, which costs more than the clone does.
fn with_peer<A: Clone + Send + Sync + 'static>(peer: A) -> Extensions {
    #[derive(Clone)]
    struct Room<const N: usize>;

    let mut extensions = Extensions::new();
    extensions.insert(Room::<1>);
    extensions.insert(Room::<2>);
    extensions.insert(Room::<3>);
    // One of the two, because each entry is an allocation per request. `PeerAddr::of` reads both.
    #[cfg(feature = "axum")]
    extensions.insert(axum::extract::ConnectInfo(peer));
    #[cfg(not(feature = "axum"))]
    extensions.insert(tower_stream_core::PeerAddr(peer));
    extensions.remove::<Room<1>>();
    extensions.remove::<Room<2>>();
    extensions.remove::<Room<3>>();
    extensions
}

impl<S, B> hyper::service::Service<Request<Incoming>> for ConnectedApp<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
{
    type Response = Response<GuardedBody<B>>;
    type Error = BoxError;
    type Future = Answer<S, S::Future>;

    /// hyper calls this in the task of the connection, also for a request of HTTP/2, whose stream it spawns next.
    #[inline]
    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let handle = &self.handle;
        let part = ConnectionHandle::request_begins(handle);
        let hypers = std::mem::replace(request.extensions_mut(), self.extensions.clone());
        request.extensions_mut().extend(hypers);
        let closing = Closing::of(request.version());
        let connect = request.method() == Method::CONNECT;
        let limited = handle.has_min_rate && !is_conversation(request.headers());
        let request = request.map(|body| match body.is_end_stream() {
            true => RequestBody::empty(body),
            false => RequestBody::new(body, handle, limited),
        });
        if handle.version == Version::Http1 {
            let mut app = self.app.clone();
            let mut nobody = Context::from_waker(Waker::noop());
            if let Poll::Ready(Ok(())) = app.poll_ready(&mut nobody) {
                // Now, so that the request is not moved into the future first. An HTTP/2 request is called in the task of
                // its stream, so that a panic of the app ends only this.
                let future = app.call(request);
                return Answer {
                    future: AppFuture::Called { future },
                    part: Some(part),
                    closing,
                    connect,
                };
            }
        }
        let app = self.app.clone();
        let request = Some(request);
        Answer {
            future: AppFuture::Waits { app, request },
            part: Some(part),
            closing,
            connect,
        }
    }
}

pin_project! {
    /// The response of the app.
    pub(crate) struct Answer<S, F> {
        #[pin]
        future: AppFuture<S, F>,
        // `None` after the response.
        part: Option<RequestPart>,
        closing: Closing,
        connect: bool,
    }
}

impl<S, B> Future for Answer<S, S::Future>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<GuardedBody<B>>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.future.poll(cx)).map_err(Into::into)?;
        let part = this.part.take().expect("polled after its end");
        let (mut head, body) = response.into_parts();
        if head.extensions.get::<RefusedStream>().is_some() {
            // If a service fails, hyper resets its stream without a head, with the reason in the error.
            let refused = h2::Error::from(h2::Reason::REFUSED_STREAM);
            return Poll::Ready(Err(refused.into()));
        }
        let handle = part.connection();
        if head.extensions.get::<UnreadUpload>().is_some() {
            handle.activity.lingers.store(true, Ordering::Relaxed);
        }
        if handle.retired.load(Ordering::Relaxed) {
            this.closing.close(*this.connect, &mut head);
        }
        let body = GuardedBody::new(body, part);
        Poll::Ready(Ok(Response::from_parts(head, body)))
    }
}

pin_project! {
    /// Calls the app once it is ready.
    #[project = AppFutureProjected]
    enum AppFuture<S, F> {
        Waits { app: S, request: Option<Request<RequestBody>> },
        Called { #[pin] future: F },
    }
}

impl<S> Future for AppFuture<S, S::Future>
where
    S: Service<Request<RequestBody>>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match self.as_mut().project() {
                AppFutureProjected::Waits { app, request } => {
                    ready!(app.poll_ready(cx))?;
                    let request = request.take().expect("polled after its end");
                    let future = app.call(request);
                    self.set(Self::Called { future });
                }
                AppFutureProjected::Called { future } => return future.poll(cx),
            }
        }
    }
}
